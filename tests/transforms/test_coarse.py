"""Coarse labels: thresholds, tubes, and what the store keeps."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from unlabeled.data.scan import Grid, Scan
from unlabeled.errors import ScanError
from unlabeled.transforms.coarse import (
    COARSE,
    CoarseLabel,
    follow,
    otsu,
    segment_blobs,
    segment_tubes,
    tubeness,
)


def scan_of(array) -> Scan:
    array = np.asarray(array, np.float32)
    shape = array.shape[1:]
    return Scan(array=array, spacing=None, affine=None, modality="", grid=Grid(shape, None))


def dice(one, other) -> float:
    return float(2 * (one & other).sum() / (one.sum() + other.sum()))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 999), scale=st.floats(0.1, 100), shift=st.floats(-50, 50))
def test_otsu_leaves_least_variance_and_follows_the_unit(seed, scale, shift):
    rng = np.random.default_rng(seed)
    values = np.concatenate([rng.normal(0, 1, 300), rng.normal(6, 1, rng.integers(30, 300))])
    threshold = otsu(values)

    def within(at):
        parts = values[values <= at], values[values > at]
        return sum(len(part) * part.var() for part in parts if len(part))

    best = min(within(at) for at in np.linspace(values.min(), values.max(), 400)[1:-1])
    assert within(threshold) <= 1.02 * best
    width = scale * np.ptp(values) / 256
    assert otsu(scale * values + shift) == pytest.approx(scale * threshold + shift, abs=2 * width)


def lines(angle: float, radius: float, edge: int = 64):
    rows, columns = np.mgrid[:edge, :edge] - edge / 2
    across = rows * np.cos(angle) + columns * np.sin(angle)
    return np.exp(-(across**2) / (2 * radius**2)), np.abs(across)


@pytest.mark.parametrize("angle", [0.0, 0.5, 1.2, 1.57])
@pytest.mark.parametrize("radius", [1.5, 3.0])
def test_tubes_of_every_direction_are_seen_and_blobs_are_not(angle, radius):
    tube, across = lines(angle, radius)
    values = tubeness(tube.astype(np.float32))
    assert values[across < 0.5].mean() > 0.5
    assert values[across > 4 * radius].mean() < 0.05
    assert tubeness(-tube.astype(np.float32))[across < 0.5].mean() < 0.05
    rows, columns = np.mgrid[:64, :64] - 32
    both = tube + np.exp(-(rows**2 + columns**2) / (2 * radius**2))
    assert 0 <= values.min() <= values.max() <= 1
    alone = np.exp(-(rows**2 + columns**2) / (2 * radius**2)).astype(np.float32)
    middle = tubeness(alone)[32, 32]
    assert middle < 0.3
    assert both.max() > tube.max()


def test_nothing_is_found_in_nothing():
    flat = np.full((32, 32), 0.5, np.float32)
    assert not segment_tubes(flat).any()
    assert not segment_blobs(flat).any()
    assert tubeness(flat).max() == 0


def test_vessels_in_uneven_light():
    rng = np.random.default_rng(0)
    one, other = lines(0.4, 2.0, 128)[1] < 2, lines(1.4, 2.0, 128)[1] < 2
    truth = one | other
    light = np.linspace(0.2, 0.6, 128)[:, None]
    grey = light + 0.2 * gaussian_filter(truth.astype(float), 1) + rng.normal(0, 0.01, (128, 128))
    assert dice(segment_tubes(grey.astype(np.float32)), truth) > 0.7
    assert dice(grey > otsu(grey), truth) < 0.4


def test_following_goes_along_corners_but_not_across_gaps():
    values = np.zeros((5, 5))
    values[0, 0], values[1, 1], values[2, 2], values[4, 4] = 9, 3, 3, 3
    kept = follow(values, 2, 8)
    assert kept.sum() == 3
    assert not kept[4, 4]


def test_blobs_have_no_holes_and_no_specks():
    rows, columns = np.mgrid[:64, :64]
    cell = np.hypot(rows - 30, columns - 30) < 12
    grey = np.where(cell, 0.8, 0.1)
    grey[28:31, 28:31] = 0.1
    grey[5, 5] = 1.0
    found = segment_blobs(grey.astype(np.float32))
    assert dice(found, cell) > 0.95
    assert found[29, 29]
    assert not found[5, 5]


def test_the_label_is_kept_beside_the_picture():
    rows, columns = np.mgrid[:64, :64]
    cell = np.hypot(rows - 30, columns - 30) < 12
    dark = np.where(cell, 20.0, 180.0)
    scan = scan_of([np.full((64, 64), 7.0), dark])
    for objects, channel, right in [
        ("dark", 1, True), ("bright", 1, False), ("rarer", 1, True), ("dark", None, True),
    ]:  # fmt: skip
        made = CoarseLabel("cells", objects, channel)(scan)
        found = made.extras[COARSE]
        assert found.shape == (64, 64)
        assert found.dtype == np.uint8
        assert (dice(found > 0, cell) > 0.9) == right
    assert COARSE not in scan.extras
    with pytest.raises(ScanError, match="no channel 2"):
        CoarseLabel("cells", "dark", 2)(scan)
    volume = scan_of(np.zeros((1, 8, 8, 4)))
    assert CoarseLabel("cells")(volume) is volume


def halved(grey):
    return grey[::2] > 0.5


def test_a_label_of_another_shape_is_refused(monkeypatch):
    monkeypatch.setattr("unlabeled.transforms.coarse.find_segmenter", lambda name: halved)
    with pytest.raises(ScanError, match="coarse label of"):
        CoarseLabel("own:halved")(scan_of(np.random.default_rng(0).random((1, 16, 16))))
