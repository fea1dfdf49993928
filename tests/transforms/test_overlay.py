"""Heat maps and captions for people."""

from __future__ import annotations

import torch

from unlabeled.transforms.overlay import LINE, TILE, captioned, heat, side_by_side


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
