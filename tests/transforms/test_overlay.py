"""Heat maps and captions for people."""

from __future__ import annotations

import torch

from unlabeled.transforms.overlay import (
    LINE,
    TILE,
    captioned,
    heat,
    in_range,
    side_by_side,
    upright,
    written,
)


def test_heat_is_where_the_weights_are():
    weights = torch.zeros(4, 4)
    weights[3, 0] = 1.0
    shown = heat(torch.full((16, 16), 0.5), weights)
    assert shown.shape == (3, 16, 16)
    assert shown.min() >= 0
    assert shown.max() <= 1
    warm = shown[0] - shown[2]
    assert warm.max() == warm[15, 0]
    assert torch.allclose(shown[:, 0, 15], torch.tensor(0.5))


def test_even_weights_leave_the_picture():
    picture = torch.rand(2, 8, 8)
    shown = heat(picture, torch.full((2, 3, 3), 0.1))
    assert torch.allclose(shown, picture[:, None].expand(2, 3, 8, 8))


def test_captions_are_written_above():
    plain = captioned(torch.ones(3, 20, 10), "")
    told = captioned(torch.ones(3, 20, 10), "effusion")
    assert plain.shape == told.shape == (3, TILE + LINE, TILE)
    assert plain[:, :LINE].max() == 0
    assert told[:, :LINE].max() > 0.8
    assert torch.equal(plain[:, LINE:], told[:, LINE:])


def test_pictures_stand_side_by_side():
    pictures = [torch.full((3, 2, 4), float(number)) for number in range(5)]
    sheet = side_by_side(pictures, columns=3)
    assert sheet.shape == (3, 4, 12)
    assert sheet[0, 0, ::4].tolist() == [0, 1, 2]
    assert sheet[0, 2, ::4].tolist() == [3, 4, 0]


def test_each_image_is_scaled_by_its_own_range_or_by_that_of_another():
    images = torch.stack([torch.linspace(-2, 6, 27), torch.linspace(5, 9, 27)]).view(2, 1, 3, 3, 3)
    shown = in_range(images)
    assert torch.equal(shown.flatten(1).aminmax(dim=1).min, torch.zeros(2))
    assert torch.equal(shown.flatten(1).aminmax(dim=1).max, torch.ones(2))
    assert torch.allclose(in_range(images + 100), shown, atol=1e-5)
    beyond = in_range(images * 3, images)
    assert beyond.min() == 0
    assert beyond.max() == 1
    assert torch.equal(in_range(images, images), shown)


def test_the_second_axis_goes_up():
    slices = torch.arange(24.0).view(2, 1, 3, 4)
    turned = upright(slices)
    assert turned.shape == (2, 1, 4, 3)
    assert torch.equal(turned[:, :, 0], slices[..., -1])
    assert torch.equal(turned[..., 0], slices[:, :, 0].flip(-1))


def test_words_are_written_into_a_tile_of_the_same_size():
    tile = written("small nodule in the left upper zone " * 30, "the report")
    assert tile.shape == captioned(torch.zeros(3, 8, 8), "a").shape
    assert tile.max() <= 1
    assert tile[:, 20:].any()
    assert not written("", "the report")[:, 20:].any()
