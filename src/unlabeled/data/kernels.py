"""Compiled inner loops over voxels: rescaling, counting, resampling; all release the interpreter lock."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from unlabeled.data.intensity import Rescaling

Scaling = tuple[np.float32, np.float32, np.float32, np.float32, np.float32, np.float32, np.float32]
AS_STORED: Scaling = tuple(map(np.float32, (1, 0, -np.inf, np.inf, 0, 1, np.inf)))  # type: ignore[assignment]


def scaling(rescaling: Rescaling, slope: float, intercept: float) -> Scaling:
    """Give the numbers of `rescale`: slope, intercept, low, high, centre, 1 / width, what high becomes.

    Parameters
    ----------
    rescaling
        The window and what becomes 0 and 1.
    slope, intercept
        Intensity = stored number * slope + intercept.
    """
    top = (rescaling.high - rescaling.centre) / rescaling.width
    window = (rescaling.low, rescaling.high, rescaling.centre, 1 / rescaling.width, top)
    return tuple(map(np.float32, (slope, intercept, *window)))  # type: ignore[return-value]


def rescale(values: NDArray[Any], out: NDArray[np.float32], numbers: Scaling) -> None:
    """Rescale stored numbers in one pass: ``(clip(value * slope + intercept, low, high) - centre) / width``.

    Parameters
    ----------
    values
        Stored numbers, any shape, contiguous.
    out
        Receives the result; as many elements, contiguous.
    numbers
        As `scaling` gives them.
    """
    _rescale(values.reshape(-1), out.reshape(-1), numbers)


@njit(nogil=True, inline="always")
def scale(value, numbers):  # type: ignore[no-untyped-def]
    """Rescale one number; for compiled loops."""
    slope, intercept, low, high, centre, factor, top = numbers
    intensity = np.float32(value) * slope + intercept
    return min((min(max(intensity, low), high) - centre) * factor, top)  # rounding may go beyond


@njit(nogil=True, cache=True, error_model="numpy")
def _rescale(values, out, numbers):  # type: ignore[no-untyped-def]
    for index in range(values.size):
        out[index] = scale(values[index], numbers)


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
