"""Zooming, rotating, mirroring, jitter, holes and mixing: what each claims."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage, stats

from unlabeled.rng import generator
from unlabeled.transforms.cutout import Cutout
from unlabeled.transforms.jitter import Jitter, brighten, stretch
from unlabeled.transforms.mixing import Mixing
from unlabeled.transforms.rigid import Mirror, Rotate, rotate
from unlabeled.transforms.zooming import ZoomCrop

ALL = [ZoomCrop((24, 20)), Rotate(), Mirror(), Jitter(), Cutout(edge=6)]
each = pytest.mark.parametrize("transform", ALL, ids=lambda made: type(made).__name__)


@each
def test_the_same_generator_gives_the_same_and_the_input_stays(transform):
    image = torch.rand(2, 30, 26, generator=generator(0))
    kept = image.clone()
    first, again = (transform(image, generator(5)) for _ in range(2))
    assert torch.equal(first, again)
    assert torch.equal(image, kept)
    assert any(not torch.equal(first, transform(image, generator(seed))) for seed in range(6, 12))
    assert first.data_ptr() != image.data_ptr()
    assert 0 <= first.min() <= first.max() <= 1 + 1e-6


@pytest.mark.parametrize(
    "still",
    [
        ZoomCrop((30, 26), least=1, stretch=1.0),
        Rotate(0),
        Mirror(0),
        Jitter(0, 0),
        Cutout(holes=0),
    ],
)
def test_switched_off_it_changes_nothing(still):
    image = torch.rand(2, 30, 26)
    if isinstance(still, ZoomCrop):
        image = torch.rand(2, 30, 30)
        still = ZoomCrop((30, 30), least=1, stretch=1.0)
    out = still(image, generator(0))
    torch.testing.assert_close(out, image)
    assert out.data_ptr() != image.data_ptr()


@given(seed=st.integers(0, 2**31), rows=st.integers(1, 90), columns=st.integers(1, 90))
def test_a_box_lies_inside_and_has_the_asked_area_and_shape(seed, rows, columns):
    crop = ZoomCrop((8, 8), least=0.2, most=1.0, stretch=4 / 3)
    (top, left), (high, wide) = crop.draw((rows, columns), generator(seed))
    assert 0 <= top <= top + high <= rows
    assert 0 <= left <= left + wide <= columns
    assert high > 0
    assert wide > 0
    slack = 0.5 * (high + wide + 1)  # edges are rounded
    fallback = high == rows or wide == columns
    assert high * wide >= 0.2 * rows * columns - slack or fallback
    assert (wide - 0.5) / (high + 0.5) <= 4 / 3 + 1e-9
    assert (high - 0.5) / (wide + 0.5) <= 4 / 3 + 1e-9


def test_areas_are_even_and_places_reach_every_border():
    crop, rng = ZoomCrop((8, 8), least=0.2, most=0.6), generator(0)
    boxes = [crop.draw((200, 200), rng) for _ in range(3000)]
    areas = np.array([high * wide / 40000 for _, (high, wide) in boxes])
    assert stats.kstest(areas, stats.uniform(0.2, 0.4).cdf).pvalue > 1e-3
    ratios = np.array([math.log(wide / high) for _, (high, wide) in boxes])
    assert (
        stats.kstest(ratios, stats.uniform(-math.log(4 / 3), 2 * math.log(4 / 3)).cdf).pvalue > 1e-3
    )
    rests = [(top, 200 - high - top) for (top, _), (high, _) in boxes]
    assert min(top for top, _ in rests) == 0
    assert min(rest for _, rest in rests) == 0


def test_a_picture_too_long_gives_its_middle():
    assert ZoomCrop((8, 8), least=0.9).draw((10, 1000), generator(0)) == ((0, 493), (10, 13))


def test_shrinking_is_smooth():
    """A fine chequerboard becomes grey instead of a coarser pattern."""
    board = ((torch.arange(64)[:, None] + torch.arange(64)) % 2).float()[None]
    small = ZoomCrop((8, 8)).resize(board)
    assert small.shape == (1, 8, 8)
    torch.testing.assert_close(small, torch.full_like(small, 0.5), atol=0.02, rtol=0)


@pytest.mark.parametrize("angle", [-10.0, 3.0, 37.0])
def test_rotation_equals_scipys(angle):
    image = torch.rand(1, 40, 28, dtype=torch.float64)
    ours = rotate(image, angle)[0].numpy()
    theirs = ndimage.rotate(image[0].numpy(), angle, reshape=False, order=1, mode="grid-constant")
    np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_angles_are_even_within_the_range():
    rng = generator(0)
    angles = [Rotate(10).draw(rng) for _ in range(2000)]
    assert stats.kstest(angles, stats.uniform(-10, 20).cdf).pvalue > 1e-3


def test_mirroring_takes_the_axis_asked_for():
    image = torch.arange(6.0).reshape(1, 2, 3)
    assert torch.equal(Mirror(1.0, axis=-1)(image, generator(0)), image.flip(2))
    assert torch.equal(Mirror(1.0, axis=0)(image, generator(0)), image.flip(1))
    mirrored = [not torch.equal(Mirror(0.3)(image, generator(seed)), image) for seed in range(600)]
    assert stats.binomtest(sum(mirrored), 600, 0.3).pvalue > 1e-3


def test_jitter_by_hand():
    image = torch.tensor([[0.2, 0.6]])
    torch.testing.assert_close(brighten(image, 2.0), torch.tensor([[0.4, 1.0]]))
    torch.testing.assert_close(stretch(image, 2.0), torch.tensor([[0.0, 0.8]]))


def test_jitter_is_one_of_both_orders_and_within_the_range():
    image = torch.tensor([[0.1, 0.3]])
    gains = []
    for seed in range(300):
        low, high = Jitter(0.4, 0.4)(image, generator(seed))[0].tolist()
        gains.append((high - low) / 0.2)  # the product of both factors, whatever the order
        assert 0.6 - 1e-6 <= (low + high) / 0.4 <= 1.4 + 1e-6
    assert 0.36 - 1e-6 <= min(gains) < 0.5
    assert 1.6 < max(gains) <= 1.96 + 1e-6


def test_holes_as_published(golden):
    arrays = np.load(golden / "c2l" / "cutout.npz")
    cut = Cutout(int(arrays["n_holes"]), int(arrays["length"]))
    mask = cut.apply(torch.ones(1, 96, 96), arrays["centres_yx"].tolist())
    np.testing.assert_array_equal(mask[0], arrays["mask"])


def test_holes_lie_anywhere_and_are_filled():
    image, rng = torch.ones(1, 40, 40), generator(0)
    cut = Cutout(holes=1, edge=8, fill=0.25)
    outs = torch.stack([cut(image, rng) for _ in range(2000)])
    assert set(outs.unique().tolist()) == {0.25, 1.0}
    share = (outs == 0.25).float().mean(0)[0]
    assert (share > 0).all()
    inner = share[8:-8, 8:-8]  # where every centre within reach lies in the picture
    assert abs(float(inner.mean()) - (8 / 40) ** 2) < 0.004
    assert share[0, 0] < inner.mean()  # borders clip holes


def test_mixing_as_published(golden):
    arrays = np.load(golden / "c2l" / "mixup.npz")
    weight = max(float(arrays["lam_in"]), 1 - float(arrays["lam_in"]))
    assert weight == pytest.approx(float(arrays["lam_used"]))
    mixing = Mixing(weight, torch.from_numpy(arrays["index"]))
    for name, mixed in (("x", "mixed_x"), ("feat", "mixed_feat")):
        ours = mixing(torch.from_numpy(arrays[name]))
        np.testing.assert_allclose(ours, arrays[mixed], rtol=0, atol=1e-6)


def test_mixing_keeps_the_larger_part_and_draws_evenly():
    torch.manual_seed(0)
    drawn = [Mixing.draw(5) for _ in range(1500)]
    weights = np.array([each.weight for each in drawn])
    assert stats.kstest(weights, stats.uniform(0.5, 0.5).cdf).pvalue > 1e-3
    partners = torch.stack([each.partners for each in drawn])
    assert torch.equal(partners.sort(dim=1).values, torch.arange(5).expand(1500, 5))
    assert abs(float((partners == torch.arange(5)).float().mean()) - 0.2) < 0.03
    torch.manual_seed(0)
    again = Mixing.draw(5)
    assert again.weight == drawn[0].weight
    peaked = [Mixing.draw(2, concentration=50.0).weight for _ in range(200)]
    assert max(peaked) < 0.75


def test_a_batch_of_one_is_mixed_with_itself():
    row = torch.rand(1, 3)
    torch.testing.assert_close(Mixing.draw(1)(row), row)
