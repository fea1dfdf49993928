"""Preparing one scan for the store: spacing, the method's own preparation, smallest type, statistics, foreground."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unlabeled.data import formats
from unlabeled.data.entry import About
from unlabeled.data.fmri import RESPONSES, as_scan, read_responses
from unlabeled.data.intensity import QUANTILES, Statistics
from unlabeled.data.kernels import box_above, count_values
from unlabeled.data.resampling import resample
from unlabeled.data.scan import Scan, Source
from unlabeled.errors import ScanError

CT_AIR = (
    -900.0
)  # [HU]; what is not denser is outside the body (ours: lung is near -800, noisy air near -1000)
LABELLED_VOXELS = 4096  # positions kept of each label, for drawing patches that hold it
_WIDEST_TABLE = (
    1 << 20
)  # entries; integers of a wider range are sampled like floating-point numbers
_SAMPLED_VOXELS = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What is done to every scan of a run.

    Parameters
    ----------
    spacing
        Voxel edge lengths to resample to [mm]; None keeps each scan's own.
    prepare
        The method's own preparation, after resampling.
    """

    spacing: tuple[float, ...] | None = None
    prepare: Callable[[Scan], Scan] | None = None


def prepare_source(source: Source, recipe: Recipe) -> tuple[About, dict[str, NDArray[Any]]]:
    """Read one scan, with its mask and its responses if it has any, and make what the store keeps of it.

    Raises
    ------
    ScanError
        If the scan or its mask cannot be read or used.
    """
    scan = as_scan(source) if source.is_response else formats.read_scan(source)
    if source.responses and not source.is_response:
        scan = replace(scan, extras={**scan.extras, RESPONSES: read_responses(source)})
    mask = (
        None
        if source.mask is None
        else formats.read_mask(source.mask, like=scan, frame=source.frame)
    )
    return prepare_scan(scan, mask, recipe, groups=len(source.channels))


def prepare_scan(
    scan: Scan, mask: NDArray[Any] | None, recipe: Recipe, *, groups: int = 1
) -> tuple[About, dict[str, NDArray[Any]]]:
    """Make what the store keeps of one scan.

    Parameters
    ----------
    scan
        As read.
    mask
        ``*space`` integers on the scan's grid.
    recipe
        Spacing and the method's own preparation.
    groups
        Registered modalities among the channels; each has its own statistics.

    Raises
    ------
    ScanError
        If it has no voxels, numbers that are not finite, or no spacing where one is asked for.
    """
    if scan.array.size == 0:
        raise ScanError("has no voxels", "Remove the file.")
    if recipe.spacing is not None:
        scan, mask = resample(scan, mask, recipe.spacing)
    if recipe.prepare is not None:
        scan = recipe.prepare(scan)
    if mask is not None and mask.shape != scan.array.shape[1:]:
        raise ScanError(
            f"has a mask of {mask.shape} voxels, but {scan.array.shape[1:]} after preparation"
        )
    scan = _with_smallest_type(scan)
    statistics, thresholds = zip(
        *(_survey(part, scan, name) for part, name in _parts(scan, groups)), strict=True
    )
    about = About(
        spacing=scan.spacing,
        affine=scan.affine,
        modality=scan.modality,
        slope=scan.slope,
        intercept=scan.intercept,
        grid=scan.grid,
        foreground=_foreground(scan, groups, thresholds),
        statistics=statistics,
    )
    arrays = {"image": scan.array}
    if mask is not None:
        arrays["mask"] = smallest_type(mask)[None]
        arrays["labelled"] = labelled_voxels(mask)[None]
    for name, extra in scan.extras.items():
        arrays[f"extra:{name}"] = smallest_type(
            extra if extra.ndim == scan.array.ndim else extra[None]
        )
    return about, arrays


def smallest_type(array: NDArray[Any]) -> NDArray[Any]:
    """Keep whole numbers in the smallest integer type that holds them, others as float32.

    >>> smallest_type(np.array([0.0, 300.0])).dtype
    dtype('int16')
    """
    if array.dtype.kind == "b":
        return array.astype(np.uint8)
    if array.dtype.kind == "f":
        if not np.isfinite(array).all():
            count = int(array.size - np.isfinite(array).sum())
            raise ScanError(
                f"has {count} voxels that are not finite numbers",
                "Replace them with the background.",
            )
        lowest, highest = array.min(), array.max()
        whole = max(-lowest, highest) < 2**24 and bool(
            (array[..., ::16] == np.rint(array[..., ::16])).all()
        )
        if not (whole and (array == np.rint(array)).all()):
            return array.astype(np.float32, copy=False)
    elif array.dtype.kind not in "iu":
        raise ScanError(f"has voxels of type {array.dtype}, not real numbers")
    low, high = int(array.min()), int(array.max())
    for name in ("uint8", "int8", "int16", "uint16", "int32", "uint32", "int64", "uint64"):
        limits = np.iinfo(name)
        if limits.min <= low and high <= limits.max:
            return array.astype(name, copy=False)
    raise AssertionError(name)  # pragma: no cover


def labelled_voxels(mask: NDArray[Any]) -> NDArray[np.int32]:
    """Give positions of labelled voxels, evenly spread: ``row (label, *position)``; none for label 0."""
    rows = []
    flat = mask.reshape(-1)
    where = np.flatnonzero(flat > 0)
    labels = flat[where]
    for label in np.unique(labels):
        mine = where[labels == label]
        picked = mine[
            np.linspace(0, len(mine) - 1, min(len(mine), LABELLED_VOXELS)).astype(np.int64)
        ]
        position = np.stack(np.unravel_index(picked, mask.shape), axis=1)
        rows.append(np.concatenate([np.full((len(picked), 1), label), position], axis=1))
    if not rows:
        return np.zeros((1, 1 + mask.ndim), np.int32)
    return np.concatenate(rows).astype(np.int32)


def _with_smallest_type(scan: Scan) -> Scan:
    array = scan.array
    if scan.slope < 0:  # the larger number is the brighter one, everywhere else
        array = -array.astype(np.float64 if array.dtype.kind == "f" else np.int64)
        scan = replace(scan, slope=-scan.slope)
    return replace(scan, array=np.ascontiguousarray(smallest_type(array)))


def _parts(scan: Scan, groups: int) -> list[tuple[NDArray[Any], str]]:
    """Split the channels into registered modalities: arrays and names."""
    if groups < 1 or len(scan.array) % groups:
        groups = 1
    names = scan.modality.split(";")
    if len(names) != groups:
        names = [scan.modality] * groups
    return list(zip(np.split(scan.array, groups), names, strict=True))


def _survey(part: NDArray[Any], scan: Scan, modality: str) -> tuple[Statistics, float]:
    """Measure the foreground of some channels; give the stored number that it exceeds as well."""
    low, high = part.min().item(), part.max().item()
    slope = scan.slope or 1.0
    threshold = (CT_AIR - scan.intercept) / slope if modality == "CT" else low
    if not low <= threshold < high:
        threshold = low if low < high else low - 1
    if part.dtype.kind != "f" and high - low < _WIDEST_TABLE:
        mean, std, quantiles = _measure_counts(count_values(part, low, high), low, threshold)
    else:
        mean, std, quantiles = _measure_sample(part, threshold)
    intensities = quantiles * scan.slope + scan.intercept
    return (
        Statistics(
            len(part),
            modality,
            mean * scan.slope + scan.intercept,
            std * scan.slope,
            intensities.astype(np.float32),
            low * scan.slope + scan.intercept,
        ),
        threshold,
    )


def _measure_counts(
    counts: NDArray[np.int64], low: int, threshold: float
) -> tuple[float, float, NDArray[np.float64]]:
    """Mean, deviation and quantiles of what exceeds a threshold, from a table of counts: exact."""
    first = int(np.floor(threshold)) + 1 - low
    counts, low = counts[max(first, 0) :], low + max(first, 0)
    values = np.arange(low, low + len(counts), dtype=np.float64)
    total = int(counts.sum())
    mean = float(values @ counts) / total
    std = float(((values - mean) ** 2) @ counts / total) ** 0.5
    position = np.linspace(0, 1, QUANTILES) * (total - 1)
    below = np.floor(position).astype(np.int64)
    ends = np.cumsum(counts)
    left = values[np.searchsorted(ends, below, side="right")]
    right = values[np.searchsorted(ends, np.minimum(below + 1, total - 1), side="right")]
    return mean, std, left + (right - left) * (position - below)


def _measure_sample(
    part: NDArray[Any], threshold: float
) -> tuple[float, float, NDArray[np.float64]]:
    """The same for numbers that cannot be counted; quantiles from about a million evenly spread voxels."""
    values = part[part > threshold]
    quantiles = np.quantile(
        values[:: max(1, len(values) // _SAMPLED_VOXELS)].astype(np.float64),
        np.linspace(0, 1, QUANTILES),
    )
    quantiles[0], quantiles[-1] = values.min(), values.max()
    return float(values.mean(dtype=np.float64)), float(values.std(dtype=np.float64)), quantiles


def _foreground(
    scan: Scan, groups: int, thresholds: Sequence[float]
) -> tuple[tuple[int, int], ...]:
    """Find the box around the foreground of all channels together."""
    boxes = [
        box_above(part, threshold)
        for (part, _), threshold in zip(_parts(scan, groups), thresholds, strict=True)
    ]
    found = [box for box in boxes if box is not None]
    return tuple(
        (min(start for start, _ in axis), max(stop for _, stop in axis))
        for axis in zip(*found, strict=True)
    )
