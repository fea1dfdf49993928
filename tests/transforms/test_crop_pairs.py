"""Pairs of crops: where they lie, how they are distorted, and what both have in common."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from unlabeled.errors import OptionError
from unlabeled.rng import generator
from unlabeled.transforms.crop_pairs import SCALES, PicturePairs, VolumePairs
from unlabeled.transforms.cutout import GREY

STILL = {"p_flip": 0.0, "degrees": 0.0, "blur": 0.0}
QUIET = {**STILL, "zoom": 0.0, "p_shuffle": 0.0, "p_paint": 0.0}


def held(array: torch.Tensor, modality: str = "MR") -> SimpleNamespace:
    """A record in memory that notes which boxes are read."""
    read = []

    def patch(start, size):
        read.append((tuple(start), tuple(size)))
        where = (slice(at, at + edge) for at, edge in zip(start, size, strict=True))
        cut = array[(slice(None), *where)]
        assert cut.shape[1:] == tuple(size), "a crop looks beyond the scan"
        return cut.clone()

    return SimpleNamespace(
        space=tuple(array.shape[1:]),
        dims=array.ndim - 1,
        modality=modality,
        window=(-1000.0, 1000.0),
        source=SimpleNamespace(name="scan"),
        patch=patch,
        read=read,
    )


def test_crops_of_volumes_have_the_published_sizes_and_overlap():
    record = held(torch.zeros(1, 60, 60, 40))
    sizes = {tuple(round(a * b) for a, b in zip(s, (16, 16, 8), strict=True)) for s in SCALES}
    assert sizes == {(16, 16, 8), (24, 24, 12), (24, 24, 24), (8, 8, 4), (28, 28, 16)}
    pairs = VolumePairs(patch=(16, 16, 8), **QUIET)
    for seed in range(60):
        pair = pairs(record, generator(seed))
        assert all(crop.shape == (1, 16, 16, 8) for crop in pair.clean + pair.seen)
    assert {size for _, size in record.read} == sizes
    for (a, x), (b, y) in zip(record.read[::2], record.read[1::2], strict=True):
        both = 1
        for start, edge, other, length in zip(a, x, b, y, strict=True):
            both *= max(0, min(start + edge, other + length) - max(start, other))
        volume = [edges[0] * edges[1] * edges[2] for edges in (x, y)]
        assert both / (sum(volume) - both) > 0.25


def test_crops_show_what_lies_at_their_place():
    """Of a ramp each crop is a ramp, whatever its box."""
    ramp = torch.arange(40.0).div(40).view(1, 40, 1, 1).expand(1, 40, 40, 40)
    record = held(ramp)
    for seed in range(10):
        first, _ = VolumePairs(patch=(8, 8, 8), **QUIET)(record, generator(seed)).clean
        (start, *_), (edge, *_) = record.read[-2]
        expected = (start + (edge - 1) / 2) / 40
        assert float(first.mean()) == pytest.approx(expected, abs=1e-3)
        assert (first.diff(dim=1) > 0).all()


def test_a_scan_smaller_than_the_crops_is_read_whole():
    record = held(torch.rand(1, 6, 30, 30, generator=generator(0)))
    VolumePairs(patch=(16, 16, 16), **QUIET)(record, generator(0))
    assert all(size[0] <= 6 for _, size in record.read)


def test_without_distortion_the_crops_are_seen_as_they_are():
    volume = held(torch.rand(1, 20, 20, 20, generator=generator(0)))
    pair = VolumePairs(patch=(8, 8, 8), **QUIET)(volume, generator(0))
    picture = held(torch.rand(1, 20, 20, generator=generator(0)))
    options = {**STILL, "brightness": 0.0, "contrast": 0.0, "holes": 0}
    other = PicturePairs(patch=(8, 8), **options)(picture, generator(0))
    for clean, seen in (*zip(*pair[:2], strict=True), *zip(*other[:2], strict=True)):
        torch.testing.assert_close(seen, clean)
    assert not torch.equal(*other.clean)


@pytest.mark.parametrize(
    "changed",
    [
        {"p_flip": 1.0},
        {"degrees": 20.0},
        {"zoom": 0.3},
        {"blur": 2.0},
        {"p_shuffle": 1.0},
        {"p_paint": 1.0},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_each_distortion_of_volumes_changes_both_views_and_no_clean_crop(changed):
    array = torch.rand(1, 30, 30, 30, generator=generator(0))
    plain = VolumePairs(patch=(24, 24, 24), **QUIET)(held(array), generator(0))
    pair = VolumePairs(patch=(24, 24, 24), **{**QUIET, **changed})(held(array), generator(0))
    assert all(map(torch.equal, pair.clean, plain.clean))
    for clean, seen in zip(pair.clean, pair.seen, strict=True):
        assert not torch.allclose(clean, seen, atol=1e-3)
    if "p_flip" in changed:
        torch.testing.assert_close(pair.seen[0], pair.clean[0].flip(1))


@pytest.mark.parametrize(
    "changed",
    [
        {"p_flip": 1.0},
        {"degrees": 20.0},
        {"blur": 2.0},
        {"brightness": 0.4},
        {"contrast": 0.4},
        {"holes": 2},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_each_distortion_of_pictures_changes_views(changed):
    array = torch.rand(1, 30, 30, generator=generator(0))
    options = {**STILL, "brightness": 0.0, "contrast": 0.0, "holes": 0, "hole_size": 6, **changed}
    moved = 0
    for seed in range(8):
        pair = PicturePairs(patch=(24, 24), **options)(held(array), generator(seed))
        for clean, seen in zip(pair.clean, pair.seen, strict=True):
            moved += not torch.allclose(clean, seen, atol=1e-4)
            if "holes" in changed:
                changed_at = (clean - seen).abs() > 1e-5
                assert (changed_at <= ((seen - GREY).abs() < 1e-6)).all()
    assert moved >= 4


def test_both_views_are_painted_alike_or_not_at_all():
    """Out-painting leaves under half of a view, in-painting over three quarters."""
    record = held(torch.full((1, 24, 24, 24), 2.0))
    kinds = set()
    for seed in range(60):
        pair = VolumePairs(patch=(24, 24, 24), **{**QUIET, "p_paint": 0.7, "p_inpaint": 0.5})(
            record, generator(seed)
        )
        left = [float((seen == 2.0).float().mean()) for seen in pair.seen]
        kind = ["none" if x == 1 else "in" if x > 0.7 else "out" for x in left]
        assert kind[0] == kind[1]
        kinds.add(kind[0])
    assert kinds == {"none", "in", "out"}


def test_left_and_right_are_columns_of_a_picture_and_the_first_axis_of_a_slice():
    options = {**STILL, "p_flip": 1.0, "brightness": 0.0, "contrast": 0.0, "holes": 0}
    ramp = torch.linspace(0, 1, 32)
    pair = PicturePairs(patch=(16, 16), **options)(held(ramp.expand(1, 32, 32)), generator(0))
    assert (pair.seen[0].diff(dim=2) < 0).all()
    volume = held(ramp.view(1, 32, 1, 1).expand(1, 32, 32, 5))
    pair = PicturePairs(patch=(16, 16), **options)(volume, generator(0))
    assert (pair.seen[0].diff(dim=1) < 0).all()
    assert volume.read[0][0][2] == volume.read[1][0][2], "both crops are of one slice"


def test_with_the_lung_filter_crops_lie_in_lung():
    array = torch.zeros(1, 32, 32, 64)
    array[..., 32:] = 0.9
    for official, content, lungs in [
        (False, "lung", True),
        (True, "auto", True),
        (False, "auto", False),
        (True, "none", False),
    ]:
        pairs = VolumePairs(patch=(8, 8, 8), content_filter=content, official=official, **QUIET)
        means = [
            float(crop.mean())
            for seed in range(20)
            for crop in pairs.cut(held(array, "CT"), generator(seed))
        ]
        assert (max(means) < 0.4) == lungs, (official, content)
    with pytest.raises(OptionError, match="no CT volume"):
        VolumePairs(patch=(8, 8, 8), content_filter="lung")(held(array), generator(0))
