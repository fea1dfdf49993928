"""Compiled inner loops of `warping`; apart from the other kernels, since numba's cache watches the caller's file alone."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray


@njit(cache=True, nogil=True, inline="always")
def _reflected(place, edge):  # type: ignore[no-untyped-def]
    """Mirror a position at the outer borders of the first and last pixel, however far it lies."""
    if -0.5 <= place <= edge - 0.5:
        return place
    around = 2.0 * edge
    place = (place + 0.5) % around
    return (around - place if place > edge else place) - 0.5


@njit(cache=True, nogil=True)
def sources(
    inverse: NDArray[np.float64], move: NDArray[np.float32], out: NDArray[np.float32]
) -> None:
    """Say where each pixel of a warped picture comes from, ``2 rows columns``: its row and its column in the original.

    Parameters
    ----------
    inverse
        3x3: (column, row, 1) of the result to (column, row, 1) of the original.
    move
        ``2 rows columns``: rows and columns that a pixel looks aside first; without rows, none does.
    """
    rows, columns = out.shape[1:]
    moved = move.shape[1] > 0
    for i in range(rows):
        for j in range(columns):
            y, x = float(i), float(j)
            if moved:
                y = _reflected(y + move[0, i, j], rows)
                x = _reflected(x + move[1, i, j], columns)
            out[0, i, j] = inverse[1, 0] * x + inverse[1, 1] * y + inverse[1, 2]
            out[1, i, j] = inverse[0, 0] * x + inverse[0, 1] * y + inverse[0, 2]


@njit(cache=True, nogil=True, inline="always")
def _mirrored(place, edge):  # type: ignore[no-untyped-def]
    """Mirror a whole position at the middles of the first and last pixel, however far it lies."""
    around = max(1, 2 * edge - 2)
    place = abs(place) % around
    return min(place, around - place) if edge > 1 else 0


@njit(cache=True, nogil=True, fastmath={"contract"})
def blur(field: NDArray[np.float32], taps: NDArray[np.float32], out: NDArray[np.float32]) -> None:
    """Convolve ``rows columns`` along both axes with a symmetric filter; beyond the border the field is mirrored."""
    rows, columns = field.shape
    reach = taps.size // 2
    line = np.empty(columns + 2 * reach, np.float32)
    for i in range(rows):
        across = line[reach : reach + columns]
        across[:] = np.float32(0.0)
        for k in range(taps.size):
            source = field[_mirrored(i + k - reach, rows)]
            weight = taps[k]
            for j in range(columns):
                across[j] += weight * source[j]
        for k in range(reach):
            line[k] = across[_mirrored(k - reach, columns)]
            line[reach + columns + k] = across[_mirrored(columns + k, columns)]
        filled = out[i]
        filled[:] = np.float32(0.0)
        for k in range(taps.size):
            weight = taps[k]
            for j in range(columns):
                filled[j] += weight * line[j + k]


@njit(cache=True, nogil=True)
def interpolate(
    image: NDArray[np.float32], places: NDArray[np.float32], out: NDArray[np.float32]
) -> None:
    """Read ``channel rows columns`` between pixels, linear; 0 beyond the picture."""
    channels, rows, columns = image.shape
    one = np.float32(1.0)  # all in single precision: mixed with integers, numba computes in double
    for i in range(out.shape[1]):
        for j in range(out.shape[2]):
            above, before = np.floor(places[0, i, j]), np.floor(places[1, i, j])
            down, right = places[0, i, j] - above, places[1, i, j] - before
            top, left = int(above), int(before)
            upper_left, upper_right = (one - down) * (one - right), (one - down) * right
            lower_left, lower_right = down * (one - right), down * right
            if 0 <= top < rows - 1 and 0 <= left < columns - 1:
                for channel in range(channels):
                    plane = image[channel]
                    out[channel, i, j] = (
                        upper_left * plane[top, left]
                        + upper_right * plane[top, left + 1]
                        + lower_left * plane[top + 1, left]
                        + lower_right * plane[top + 1, left + 1]
                    )
                continue
            for channel in range(channels):
                total = np.float32(0.0)
                for di in range(2):
                    row = top + di
                    if row < 0 or row >= rows:
                        continue
                    across = down if di else one - down
                    for dj in range(2):
                        column = left + dj
                        if 0 <= column < columns:
                            weight = across * (right if dj else one - right)
                            total += weight * image[channel, row, column]
                out[channel, i, j] = total


@njit(cache=True, nogil=True)
def carry_labels(
    labels: NDArray[np.int64], places: NDArray[np.float32], out: NDArray[np.int64]
) -> None:
    """Give each pixel the label that more than half of the linear weights speak for, else 0.

    That is each label's own mask, interpolated linearly and rounded.
    """
    rows, columns = labels.shape
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            y, x = places[0, i, j], places[1, i, j]
            top, left = int(np.floor(y)), int(np.floor(x))
            down, right = y - top, x - left
            out[i, j] = 0
            for n in range(4):
                row, column = top + n // 2, left + n % 2
                if not (0 <= row < rows and 0 <= column < columns):
                    continue
                mine = labels[row, column]
                if mine == 0:
                    continue
                total = 0.0
                for m in range(4):
                    other, beside = top + m // 2, left + m % 2
                    if (
                        0 <= other < rows
                        and 0 <= beside < columns
                        and labels[other, beside] == mine
                    ):
                        total += (down if m // 2 else 1 - down) * (right if m % 2 else 1 - right)
                if total > 0.5:
                    out[i, j] = mine
                    break


@njit(cache=True, nogil=True)
def carry_nearest(
    labels: NDArray[np.int64], places: NDArray[np.float32], out: NDArray[np.int64]
) -> None:
    """Give each pixel the label of the pixel that is nearest to where it comes from, 0 outside."""
    rows, columns = labels.shape
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            row = int(np.floor(places[0, i, j] + 0.5))
            column = int(np.floor(places[1, i, j] + 0.5))
            inside = 0 <= row < rows and 0 <= column < columns
            out[i, j] = labels[row, column] if inside else 0
