"""Superpixels and supervoxels: time and quality against scikit-image, on one thread.

    python benchmarks/superpixels.py

SLIC runs on volumes of 96^3 voxels: the MNI152 template with noise and its tissue maps (nilearn), and an ellipsoid phantom.  Ours is
asked for as many regions as scikit-image returned, so that both are measured at the same fineness.  Felzenszwalb runs on slices of
256 x 256; its labels equal scikit-image's.  Times are medians of alternating rounds; compilation is not in them, for it is cached on disk.

=======================  ===========================================================================================
asa                      achievable segmentation accuracy: share of voxels right when each region gets its commonest label
undersegmentation        voxels of regions on the wrong side of a label's border, the smaller part counted, per voxel
boundary_recall          share of border voxels of the labels with a border of regions within one voxel
compactness              isoperimetric quotient of the regions, mean weighted by size: 1 for spheres
=======================  ===========================================================================================
"""

from __future__ import annotations

import argparse
import statistics
from typing import Any

import numpy as np
from _common import alternate, keep, median_ratio
from numpy.typing import NDArray
from scipy import ndimage
from skimage import segmentation

from unlabeled.demo.phantoms import draw_phantom
from unlabeled.transforms.superpixels import felzenszwalb, slic

EDGE = 96
COMPACTNESS = 0.1


def template() -> tuple[NDArray[Any], NDArray[Any]]:
    """The middle of the MNI152 template with 3 % noise, and background, grey and white matter."""
    from nilearn.datasets import (
        load_mni152_gm_template,
        load_mni152_template,
        load_mni152_wm_template,
    )

    parts = [
        np.asarray(load(resolution=1).get_fdata(), np.float32)
        for load in (load_mni152_template, load_mni152_gm_template, load_mni152_wm_template)
    ]
    middle = tuple(slice((n - EDGE) // 2, (n - EDGE) // 2 + EDGE) for n in parts[0].shape)
    image, grey, white = (part[middle] for part in parts)
    noise = np.random.default_rng(0).standard_normal(image.shape).astype(np.float32)
    rest = np.clip(1 - grey - white, 0, 1)
    return image / image.max() + 0.03 * noise, np.stack([rest, grey, white]).argmax(0)


def phantom() -> tuple[NDArray[Any], NDArray[Any]]:
    """Ellipsoids in noise; every brightness is a label."""
    drawn = draw_phantom(0, (EDGE,) * 3, noise=0.0)
    labels = np.unique(drawn.image, return_inverse=True)[1].reshape(drawn.image.shape)
    noise = np.random.default_rng(0).standard_normal(drawn.image.shape).astype(np.float32)
    return drawn.image + 0.05 * noise, labels


def borders(labels: NDArray[Any]) -> NDArray[np.bool_]:
    """Voxels with a face to another label."""
    found = np.zeros(labels.shape, bool)
    for axis in range(labels.ndim):
        differs = np.diff(labels, axis=axis) != 0
        first = [slice(None)] * labels.ndim
        second = list(first)
        first[axis], second[axis] = slice(None, -1), slice(1, None)
        found[tuple(first)] |= differs
        found[tuple(second)] |= differs
    return found


def quality(regions: NDArray[Any], truth: NDArray[Any]) -> dict[str, float]:
    """Measure regions against labels."""
    _, flat = np.unique(regions, return_inverse=True)
    flat = flat.reshape(-1)
    count, classes = int(flat.max()) + 1, int(truth.max()) + 1
    table = np.bincount(flat * classes + truth.reshape(-1), minlength=count * classes)
    table = table.reshape(count, classes)
    size = table.sum(1)
    edges, wanted = borders(regions), borders(truth)
    near = ndimage.binary_dilation(edges, np.ones((3,) * regions.ndim))
    faces = np.zeros(count)
    numbered = flat.reshape(regions.shape)
    for axis in range(regions.ndim):
        ahead = np.moveaxis(numbered, axis, 0)
        differs = ahead[1:] != ahead[:-1]
        faces += np.bincount(ahead[1:][differs], minlength=count)
        faces += np.bincount(ahead[:-1][differs], minlength=count)
    quotient = 36 * np.pi * size.astype(float) ** 2 / np.maximum(faces, 1) ** 3
    return {
        "regions": count,
        "asa": float(table.max(1).sum() / size.sum()),
        "undersegmentation": float(np.minimum(table, size[:, None] - table).sum() / size.sum()),
        "boundary_recall": float((near & wanted).sum() / wanted.sum()),
        "compactness": float((quotient * size).sum() / size.sum()),
    }


def compare_slic(
    image: NDArray[Any], truth: NDArray[Any], asked: int, rounds: int
) -> dict[str, Any]:
    """Time both and measure both at the same number of regions."""
    theirs = {"n_segments": asked, "compactness": COMPACTNESS, "channel_axis": None}
    reference = segmentation.slic(image, **theirs)
    same = len(np.unique(reference))
    seconds = alternate(
        {
            "scikit-image": lambda: segmentation.slic(image, **theirs),
            "ours": lambda: slic(image, same, compactness=COMPACTNESS),
        },
        rounds,
    )
    return {
        "asked": asked,
        "seconds": {name: statistics.median(taken) for name, taken in seconds.items()},
        "times_as_fast": median_ratio(seconds["scikit-image"], seconds["ours"]),
        "scikit-image": quality(reference, truth),
        "ours": quality(slic(image, same, compactness=COMPACTNESS), truth),
    }


def compare_felzenszwalb(volume: NDArray[Any], rounds: int) -> dict[str, Any]:
    """Time both on an enlarged slice, and count pixels whose labels differ."""
    image = np.kron(volume[:, :, EDGE // 2], np.ones((3, 3)))[:256, :256].astype(np.float64) * 255
    image += np.random.default_rng(1).standard_normal(image.shape)
    asked = {"scale": 1.0, "sigma": 1.0, "min_size": 400}
    seconds = alternate(
        {
            "scikit-image": lambda: segmentation.felzenszwalb(image, **asked),
            "ours": lambda: felzenszwalb(image, **asked),
        },
        rounds,
    )
    reference, found = segmentation.felzenszwalb(image, **asked), felzenszwalb(image, **asked)
    return {
        "shape": list(image.shape),
        "seconds": {name: statistics.median(taken) for name, taken in seconds.items()},
        "times_as_fast": median_ratio(seconds["scikit-image"], seconds["ours"]),
        "regions": int(found.max()) + 1,
        "pixels_that_differ": int((reference != found).sum()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--name", default="superpixels")
    asked = parser.parse_args()
    figures: dict[str, Any] = {}
    for name, (image, truth) in {"MNI152": template(), "phantom": phantom()}.items():
        for segments in (500, 1500, 5000):
            label = f"slic {name} {segments}"
            figures[label] = compare_slic(image, truth, segments, asked.rounds)
    figures["felzenszwalb MNI152"] = compare_felzenszwalb(template()[0], 3 * asked.rounds)
    keep(asked.name, figures)


if __name__ == "__main__":
    main()
