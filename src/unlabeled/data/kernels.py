"""Compiled inner loops over voxels: rescaling, counting, resampling; all release the interpreter lock."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from unlabeled.data.intensity import Rescaling


def rescale(
    values: NDArray[Any],
    out: NDArray[np.float32],
    rescaling: Rescaling,
    slope: float = 1.0,
    intercept: float = 0.0,
) -> None:
    """Rescale stored values into `out` in one pass.

    Parameters
    ----------
    values
        Stored numbers, any shape, contiguous.
    out
        Receives ``(clip(value * slope + intercept, low, high) - centre) / width``; as many elements, contiguous.
    rescaling
        The window and what becomes 0 and 1.
    slope, intercept
        Intensity = value * slope + intercept.
    """
    top = (rescaling.high - rescaling.centre) / rescaling.width
    factor = 1 / rescaling.width
    numbers = (slope, intercept, rescaling.low, rescaling.high, rescaling.centre, factor, top)
    _rescale(values.reshape(-1), out.reshape(-1), *(np.float32(number) for number in numbers))


@njit(nogil=True, cache=True, error_model="numpy")
def _rescale(values, out, slope, intercept, low, high, centre, factor, top):  # type: ignore[no-untyped-def]
    for index in range(values.size):
        intensity = np.float32(values[index]) * slope + intercept
        scaled = (min(max(intensity, low), high) - centre) * factor
        out[index] = min(scaled, top)  # rounding may have gone beyond


def count_values(values: NDArray[Any], lowest: int, highest: int) -> NDArray[np.int64]:
    """Count how often each whole number from `lowest` to `highest` occurs in an integer array."""
    counts = np.zeros((4, highest - lowest + 1), np.int64)
    _count(values.reshape(-1), lowest, counts)
    total: NDArray[np.int64] = counts.sum(axis=0)
    return total


@njit(nogil=True, cache=True)
def _count(values, lowest, counts):  # type: ignore[no-untyped-def]
    # Four tables: equal neighbours, which scans are full of, would wait for each other in one.
    quarter = values.size // 4
    for index in range(quarter):
        counts[0, np.int64(values[index]) - lowest] += 1
        counts[1, np.int64(values[index + quarter]) - lowest] += 1
        counts[2, np.int64(values[index + 2 * quarter]) - lowest] += 1
        counts[3, np.int64(values[index + 3 * quarter]) - lowest] += 1
    for index in range(4 * quarter, values.size):
        counts[0, np.int64(values[index]) - lowest] += 1


def box_above(array: NDArray[Any], threshold: float) -> tuple[tuple[int, int], ...] | None:
    """Find the smallest box that holds every number above a threshold.

    Parameters
    ----------
    array
        ``channel *space`` with two or three axes of space.
    threshold
        Numbers must exceed it.

    Returns
    -------
    tuple or None
        Start and stop along each axis of space; None when nothing exceeds the threshold.
    """
    channels, *space = array.shape
    volume = array.reshape(channels, *(1,) * (3 - len(space)), *space)
    box = np.array([[edge, 0] for edge in volume.shape[1:]], np.int64)
    _grow_box(volume, threshold, box)
    if box[0, 1] == 0:
        return None
    return tuple((int(first), int(stop)) for first, stop in box[3 - len(space) :])


@njit(nogil=True, cache=True)
def _grow_box(volume, threshold, box):  # type: ignore[no-untyped-def]
    last = volume.shape[3] - 1
    for channel in range(volume.shape[0]):
        for i in range(volume.shape[1]):
            for j in range(volume.shape[2]):
                row = volume[channel, i, j]
                first = 0
                while first <= last and not row[first] > threshold:
                    first += 1
                if first > last:
                    continue
                stop = last
                while not row[stop] > threshold:
                    stop -= 1
                box[0, 0], box[0, 1] = min(box[0, 0], i), max(box[0, 1], i + 1)
                box[1, 0], box[1, 1] = min(box[1, 0], j), max(box[1, 1], j + 1)
                box[2, 0], box[2, 1] = min(box[2, 0], first), max(box[2, 1], stop + 1)
