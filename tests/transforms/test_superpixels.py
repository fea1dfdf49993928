"""Superpixels: equal to the published ones, whole, connected, and close to what scikit-image makes."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from unlabeled.transforms import _regions
from unlabeled.transforms.superpixels import body_mask, connected_parts, felzenszwalb, slic

BENCHMARK = Path(__file__).resolve().parents[2] / "benchmarks" / "superpixels.py"


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Functions of the benchmark, by name."""
    pytest.importorskip("skimage")
    monkeypatch.syspath_prepend(str(BENCHMARK.parent))
    return runpy.run_path(str(BENCHMARK))


def blobs(*space: int, seed: int = 0) -> np.ndarray:
    """Smooth structures in noise, no two differences alike."""
    rng = np.random.default_rng(seed)
    smooth = ndimage.gaussian_filter(rng.standard_normal(space), 3)
    return (100 + 60 * smooth / smooth.std() + 4 * rng.standard_normal(space)).astype(np.float32)


def test_felzenszwalb_equals_the_published_superpixels(golden):
    arrays = np.load(golden / "superpixel-fewshot" / "superpixels.npz")
    for image, expected in zip(arrays["image"], arrays["raw_felzenszwalb"], strict=True):
        found = felzenszwalb(image, scale=1, sigma=1, min_size=400)
        assert (found == expected).all()


def test_the_body_mask_equals_the_published_one(golden):
    arrays = np.load(golden / "superpixel-fewshot" / "superpixels.npz")
    for image, expected in zip(arrays["image"], arrays["fg_mask"], strict=True):
        assert (body_mask(image, 1e-4) == expected.astype(bool)).all()


@given(
    seed=st.integers(0, 1000),
    rows=st.integers(1, 40),
    columns=st.integers(1, 40),
    scale=st.sampled_from([0.5, 1.0, 300.0, 1e5]),
    sigma=st.sampled_from([0.0, 0.8, 2.0]),
    min_size=st.integers(1, 60),
)
def test_felzenszwalb_equals_scikit_image(seed, rows, columns, scale, sigma, min_size):
    segmentation = pytest.importorskip("skimage.segmentation")
    if min(rows, columns) < 2:
        return  # scikit-image cannot
    image = np.random.default_rng(seed).normal(100, 50, (rows, columns))
    asked = {"scale": scale, "sigma": sigma, "min_size": min_size}
    assert (felzenszwalb(image, **asked) == segmentation.felzenszwalb(image, **asked)).all()


def test_felzenszwalb_of_colours_equals_scikit_image():
    segmentation = pytest.importorskip("skimage.segmentation")
    image = np.stack([blobs(40, 50, seed=seed) for seed in range(3)])
    asked = {"scale": 50.0, "sigma": 1.0, "min_size": 20}
    expected = segmentation.felzenszwalb(image.transpose(1, 2, 0), **asked)
    assert (felzenszwalb(image, **asked) == expected).all()


@given(seed=st.integers(0, 1000), edge=st.integers(1, 30), min_size=st.integers(1, 50))
def test_felzenszwalb_regions_are_large_enough_connected_and_numbered_in_order(
    seed, edge, min_size
):
    found = felzenszwalb(blobs(edge, 31, seed=seed), sigma=0.5, min_size=min_size)
    labels, first, counts = np.unique(found, return_index=True, return_counts=True)
    assert (labels == np.arange(len(labels))).all()
    assert (np.diff(first) > 0).all()
    assert len(labels) == 1 or counts.min() >= min_size
    for label in labels:
        assert ndimage.label(found == label, np.ones((3, 3)))[1] == 1


def test_equal_costs_are_taken_in_reading_order_whatever_the_sort():
    costs = np.array([3.0, 0.0, 1.0, 0.0, 3.0, 0.0, 1.0])
    order = np.array([5, 3, 1, 6, 2, 4, 0])
    _regions.settle_ties(costs, order)
    assert order.tolist() == [1, 3, 5, 2, 6, 0, 4]


def test_a_flat_picture_is_one_region():
    assert felzenszwalb(np.full((20, 30), 7.0)).max() == 0


@pytest.mark.parametrize("space", [(60, 50), (24, 30, 20)])
@pytest.mark.parametrize("segments", [1, 12, 80])
def test_slic_regions_are_connected_numbered_and_about_as_many_as_asked(space, segments):
    found = slic(blobs(*space), segments, compactness=0.3)
    labels = np.unique(found)
    assert (labels == np.arange(len(labels))).all()
    assert 0.5 * segments <= len(labels) <= 1.6 * segments
    for label in labels:
        assert ndimage.label(found == label)[1] == 1


@given(
    seed=st.integers(0, 1000),
    space=st.tuples(st.integers(1, 6), st.integers(1, 12), st.integers(1, 12)),
    values=st.integers(1, 4),
    least=st.integers(1, 30),
)
def test_parts_are_whole_connected_and_large_enough(seed, space, values, least):
    labels = np.random.default_rng(seed).integers(0, values, space).astype(np.int32)
    alone = connected_parts(labels)
    expected = sum(ndimage.label(labels == value)[1] for value in range(values))
    assert alone.max() + 1 == expected
    assert all(len(np.unique(labels[alone == part])) == 1 for part in range(expected))
    joined = connected_parts(labels, least)
    counts = np.bincount(joined.reshape(-1))
    assert len(counts) == 1 or counts.min() >= least
    assert all(ndimage.label(joined == part)[1] == 1 for part in range(len(counts)))
    first = np.unique(joined, return_index=True)[1]
    assert (np.diff(first) > 0).all()


def test_slic_is_the_clustering_that_it_says():
    """With one round, every voxel belongs to the nearest of the first centres within reach, by the formula."""
    rng = np.random.default_rng(0)
    image = rng.random((1, 9, 12, 10)).astype(np.float32)
    centres = rng.uniform(0, 9, (14, 3)).astype(np.float32)
    colours = rng.random((14, 1)).astype(np.float32)
    weights = np.array([0.02, 0.01, 0.03], np.float32)
    reach = np.array([5.0, 4.0, 6.0], np.float32)
    labels = np.full((9, 12, 10), -1, np.int32)
    _regions.assign_voxels(image, centres, colours, weights, reach, np.empty_like(image[0]), labels)
    place = np.stack(np.meshgrid(*map(np.arange, labels.shape), indexing="ij"), -1)[..., None, :]
    apart = place - centres.astype(np.float64)
    far = (weights * apart**2).sum(-1) + (
        image[0][..., None] - colours[:, 0].astype(np.float64)
    ) ** 2
    far[(np.abs(apart) > reach).any(-1)] = np.inf
    expected = np.where(np.isfinite(far.min(-1)), far.argmin(-1), -1)
    assert (labels == expected).mean() > 0.999  # float32 may settle a tie otherwise


@pytest.mark.parametrize("channels", [1, 3])
def test_centres_move_to_the_means_of_their_voxels(channels):
    rng = np.random.default_rng(1)
    image = rng.random((channels, 5, 6, 7)).astype(np.float32)
    labels = rng.integers(0, 4, (5, 6, 7)).astype(np.int32)
    centres, colours = np.zeros((5, 3), np.float32), np.full((5, channels), 9, np.float32)
    assert _regions.move_centres(image, labels, centres, colours) > 1
    for label in range(4):
        place = np.argwhere(labels == label)
        np.testing.assert_allclose(centres[label], place.mean(0), rtol=1e-5)
        np.testing.assert_allclose(colours[label], image[:, labels == label].mean(1), rtol=1e-5)
    assert (colours[4] == 9).all()  # nobody's centre stays


def test_equal_channels_cluster_as_one():
    image = blobs(30, 40)
    one = slic(image, 30, compactness=0.2)
    two = slic(np.stack([image, image]), 30, compactness=0.2 * 2**0.5, channelled=True)
    assert (one == two).mean() > 0.99


def test_slic_measures_distances_in_millimetres():
    """On a flat volume of tall voxels, regions are as long in mm along every axis."""
    found = slic(np.zeros((40, 40, 10)), 64, spacing=(1, 1, 4))
    labels = found[::10, 0, 0], found[0, 0, :]
    assert len(np.unique(labels[0])) == len(np.unique(labels[1])) == 4


def test_slic_does_not_depend_on_the_unit_of_intensity():
    image = blobs(40, 40)
    assert (slic(image, 30) == slic(image * 1000 - 5e4, 30)).mean() > 0.999


def test_parts_are_joined_across_their_longest_border():
    parts = np.array([[[0, 0, 1, 1, 1], [0, 0, 2, 1, 1], [3, 3, 3, 3, 3]]], np.int32)
    assert _regions.join_small_parts(parts, 4, 2) == 3
    assert parts.tolist() == [[[0, 0, 1, 1, 1], [0, 0, 1, 1, 1], [2, 2, 2, 2, 2]]]


@pytest.mark.parametrize("shape", [(5,), (2, 3, 4, 5), (0, 4)])
def test_other_shapes_are_refused(shape):
    for make in (felzenszwalb, lambda image: slic(image, 4)):
        with pytest.raises(ValueError, match="need"):
            make(np.zeros(shape))


def test_slic_holds_labels_as_well_as_scikit_image(benchmark):
    """At the same number of regions, on a phantom; the benchmark has real anatomy."""
    segmentation = pytest.importorskip("skimage.segmentation")
    quality = benchmark["quality"]
    truth = sum((blobs(32, 32, 32) > level).astype(int) for level in (60, 140))
    rng = np.random.default_rng(3)
    image = (truth + 0.2 * rng.standard_normal(truth.shape)).astype(np.float32)
    theirs = segmentation.slic(image, n_segments=200, compactness=0.1, channel_axis=None)
    ours = slic(image, len(np.unique(theirs)), compactness=0.1)
    reference, found = quality(theirs, truth), quality(ours, truth)
    assert found["asa"] > reference["asa"] - 0.02
    assert found["boundary_recall"] > reference["boundary_recall"] - 0.02
    assert found["compactness"] > 0.8 * reference["compactness"]


@pytest.mark.slow
def test_slic_is_five_times_as_fast_as_scikit_image(benchmark):
    """More than ten times on a quiet machine; the guard is the promise."""
    image = blobs(96, 96, 96)
    found = benchmark["compare_slic"](image, (image > image.mean()).astype(int), 1500, 3)
    assert found["times_as_fast"] > 5
