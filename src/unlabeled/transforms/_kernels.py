"""Compiled inner loops of the transforms: they hold no state, release the GIL and draw from a counter.

The n-th draw of a stream is a hash of (seed, n) (SplitMix64: Steele, Lea and Flood, OOPSLA 2014), so loops over
draws have no chain of dependences and the compiler runs several at once.  All kernels live in one file, since
numba's cache on disk watches the caller's file alone.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

_STEP = np.uint64(0x9E3779B97F4A7C15)
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)
_LOW_HALF = np.uint64(0xFFFFFFFF)
_UNIT = np.float32(2.0**-24)
_MOST_OFFSETS = 1 << 18


@njit(cache=True, nogil=True, inline="always")
def _draw(seed: np.uint64, n: np.uint64) -> np.uint64:
    """Give the n-th 64 bits of a stream."""
    bits = seed + n * _STEP
    bits = (bits ^ (bits >> np.uint64(30))) * _FIRST
    bits = (bits ^ (bits >> np.uint64(27))) * _SECOND
    return bits ^ (bits >> np.uint64(31))


@njit(cache=True, nogil=True, inline="always")
def _below(bits: np.uint64, count: np.uint64) -> np.uint64:
    """Scale 32 random bits to a whole number below `count`; its chances differ by at most ``2**-32``."""
    return (bits * count) >> np.uint64(32)


@njit(cache=True, nogil=True)
def fill_uniform(seed: np.uint64, out: NDArray[np.float32]) -> None:
    """Fill a flat array with numbers uniform in [0, 1), 24 bits each, two a draw."""
    pairs = out.size // 2
    for i in range(pairs):
        bits = _draw(seed, np.uint64(i))
        out[2 * i] = np.float32(np.int32(bits >> np.uint64(40))) * _UNIT
        low = np.int32((bits >> np.uint64(8)) & np.uint64(0xFFFFFF))
        out[2 * i + 1] = np.float32(low) * _UNIT
    if out.size % 2:
        bits = _draw(seed, np.uint64(pairs))
        out[-1] = np.float32(np.int32(bits >> np.uint64(40))) * _UNIT


@njit(cache=True, nogil=True)
def draw_windows(
    seed: np.uint64, space: NDArray[np.int64], largest: NDArray[np.int64], out: NDArray[np.int32]
) -> None:
    """Draw windows: ``out[w] = (start_0, start_1, start_2, edge_0, edge_1, edge_2)`` [voxel].

    An edge is uniform in 1..largest of its axis, the start uniform where the window fits.
    """
    for w in range(out.shape[0]):
        for axis in range(3):
            bits = _draw(seed, np.uint64(3 * w + axis))
            edge = np.int64(_below(bits >> np.uint64(32), np.uint64(largest[axis]))) + 1
            out[w, 3 + axis] = edge
            out[w, axis] = _below(bits & _LOW_HALF, np.uint64(space[axis] - edge + 1))


@njit(cache=True, nogil=True)
def draw_spots(
    seed: np.uint64,
    space: NDArray[np.int64],
    edge: int,
    radius: int,
    spots: NDArray[np.int64],
    donors: NDArray[np.int64],
) -> int:
    """Draw one voxel in each box of an image, and one about it; those beyond the image are left out.

    Boxes have equal edges and follow one another with the last axis fastest; a window about a voxel reaches `radius`
    to each side, moved inwards at borders.  ``spots[s, axis]`` and ``donors[s, axis]`` [voxel]; gives their number.
    """
    dims = space.shape[0]
    boxes = 1
    for axis in range(dims):
        boxes *= (space[axis] + edge - 1) // edge
    found = 0
    for box in range(boxes):
        rest, inside = box, True
        for axis in range(dims - 1, -1, -1):
            along = (space[axis] + edge - 1) // edge
            bits = _draw(seed, np.uint64(box * dims + axis))
            spot = (rest % along) * edge + np.int64(_below(bits >> np.uint64(32), np.uint64(edge)))
            rest //= along
            inside = inside and spot < space[axis]
            window = min(space[axis], 2 * radius + 1)
            start = min(max(spot - radius, 0), space[axis] - window)
            spots[found, axis] = spot
            donors[found, axis] = start + np.int64(_below(bits & _LOW_HALF, np.uint64(window)))
        found += inside
    return found


@njit(cache=True, nogil=True)
def copy_spots(
    image: NDArray[np.generic],
    spots: NDArray[np.int64],
    donors: NDArray[np.int64],
    space: NDArray[np.int64],
    out: NDArray[np.generic],
    hidden: NDArray[np.bool_],
) -> None:
    """Write into `out` at each of `spots` what `image` holds at its donor, and mark it in `hidden`; all three flat."""
    for s in range(spots.shape[0]):
        spot, donor = 0, 0
        for axis in range(space.size):
            spot = spot * space[axis] + spots[s, axis]
            donor = donor * space[axis] + donors[s, axis]
        out[spot] = image[donor]
        hidden[spot] = True


@njit(cache=True, nogil=True)
def turn_and_blind(
    ways: NDArray[np.int64],
    boxes: NDArray[np.int64],
    seeds: NDArray[np.uint64],
    edge: int,
    radius: int,
    images: NDArray[np.float32],
    turned: NDArray[np.float32],
    out: NDArray[np.float32],
    hidden: NDArray[np.bool_],
) -> None:
    """Turn images ``image channel rows columns voxel`` as `turning.turn_square` does, and blind each within its box.

    ``boxes[image, axis]`` holds the first voxel and the one behind the last, of the turned image;
    ``seeds[image, channel]``.  Images of two axes have a single voxel in the last, and boxes none of it.
    """
    number, channels, rows, columns, depth = images.shape
    dims = boxes.shape[1]
    space = np.array((rows, columns, depth))[:dims]
    for n in range(number):
        quarters, flipped = ways[n] % 4, ways[n] >= 4
        first, extent = boxes[n, :, 0], boxes[n, :, 1] - boxes[n, :, 0]
        most = 1
        for axis in range(dims):
            most *= (extent[axis] + edge - 1) // edge
        spots, donors = np.empty((most, dims), np.int64), np.empty((most, dims), np.int64)
        for c in range(channels):
            for i in range(rows):
                a = rows - 1 - i if flipped else i
                for j in range(columns):
                    if quarters == 0:
                        row, column = a, j
                    elif quarters == 1:
                        row, column = j, columns - 1 - a
                    elif quarters == 2:
                        row, column = rows - 1 - a, columns - 1 - j
                    else:
                        row, column = rows - 1 - j, a
                    for k in range(depth):
                        turned[n, c, i, j, k] = images[n, c, row, column, k]
            out[n, c] = turned[n, c]
            hidden[n, c] = False
            found = draw_spots(seeds[n, c], extent, edge, radius, spots, donors)
            for s in range(found):
                for axis in range(dims):
                    spots[s, axis] += first[axis]
                    donors[s, axis] += first[axis]
            flat = turned[n, c].reshape(-1), out[n, c].reshape(-1), hidden[n, c].reshape(-1)
            copy_spots(flat[0], spots[:found], donors[:found], space, flat[1], flat[2])


@njit(cache=True, nogil=True)
def _list_voxels(
    corner: np.uint64,
    plane: np.uint64,
    row: np.uint64,
    x_edge: int,
    y_edge: int,
    z_edge: int,
    out: NDArray[np.int32],
) -> None:
    """List the flat indices of a window's voxels."""
    n = np.uint64(0)
    for x in range(np.uint64(x_edge)):
        for y in range(np.uint64(y_edge)):
            first = corner + x * plane + y * row
            for z in range(np.uint64(z_edge)):
                out[n] = first + z
                n += np.uint64(1)


@njit(cache=True, nogil=True)
def _tabulate_offsets(
    plane: np.uint64, row: np.uint64, largest: NDArray[np.int64], begin: NDArray[np.int64]
) -> NDArray[np.int32]:
    """List the voxels of a window at the origin for every shape; nothing where the lists would not fit a cache."""
    entries = 1
    for axis in range(3):
        entries *= largest[axis] * (largest[axis] + 1) // 2
    offsets = np.empty(entries if entries <= _MOST_OFFSETS else 0, np.int32)
    n = 0
    if offsets.size:
        for x_edge in range(1, largest[0] + 1):
            for y_edge in range(1, largest[1] + 1):
                for z_edge in range(1, largest[2] + 1):
                    begin[x_edge, y_edge, z_edge] = n
                    _list_voxels(np.uint64(0), plane, row, x_edge, y_edge, z_edge, offsets[n:])
                    n += x_edge * y_edge * z_edge
    return offsets


@njit(cache=True, nogil=True)
def draw_sources(
    seed: np.uint64,
    space: NDArray[np.int64],
    windows: NDArray[np.int32],
    largest: NDArray[np.int64],
    out: NDArray[np.int32],
) -> None:
    """Draw for every voxel (flat index) the voxel whose value it gets when the windows are permuted in order.

    A later window overwrites an earlier one, so the windows are visited from the last to the first and a voxel
    that has its source is left alone: only permutation entries that survive are drawn.  They are the first picks
    of a Fisher-Yates shuffle, which are distributed as the same entries of a full permutation.
    """
    plane, row = np.uint64(space[1] * space[2]), np.uint64(space[2])
    out[:] = -1
    begin = np.full((largest[0] + 1, largest[1] + 1, largest[2] + 1), -1, np.int64)
    offsets = _tabulate_offsets(plane, row, largest, begin)
    pool = np.empty(largest.prod(), np.int32)
    targets = np.empty(largest.prod(), np.int32)
    drawn = np.uint64(0)
    for w in range(windows.shape[0] - 1, -1, -1):
        x_edge, y_edge, z_edge = windows[w, 3], windows[w, 4], windows[w, 5]
        corner = (
            np.uint64(windows[w, 0]) * plane
            + np.uint64(windows[w, 1]) * row
            + np.uint64(windows[w, 2])
        )
        count = np.uint64(x_edge * y_edge * z_edge)
        if offsets.size:
            first = np.uint64(begin[x_edge, y_edge, z_edge])
            for i in range(count):
                pool[i] = corner + np.uint64(offsets[first + i])
        else:
            _list_voxels(corner, plane, row, x_edge, y_edge, z_edge, pool)
        left = np.uint64(0)
        for i in range(count):
            voxel = np.uint64(pool[i])
            targets[left] = voxel
            left += np.uint64(out[voxel] < 0)
        for k in range(left):
            bits = _draw(seed, drawn)
            drawn += np.uint64(1)
            pick = k + _below(bits >> np.uint64(32), count - k)
            source = pool[pick]
            pool[pick] = pool[k]
            out[np.uint64(targets[k])] = source
    for i in range(out.size):
        if out[i] < 0:
            out[i] = i


@njit(cache=True, nogil=True)
def gather(
    image: NDArray[np.float32], sources: NDArray[np.int32], out: NDArray[np.float32]
) -> None:
    """Copy ``image[channel, sources]`` to `out`."""
    for channel in range(image.shape[0]):
        for i in range(sources.size):
            out[channel, i] = image[channel, sources[i]]


@njit(cache=True, nogil=True)
def _on_chord(v: float, chord: int, x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """Interpolate between the ends of one chord; of one without width, give the first end."""
    width = x[chord + 1] - x[chord]
    if width <= 0:
        return float(y[chord])
    return float(y[chord] + (y[chord + 1] - y[chord]) * ((v - x[chord]) / width))


@njit(cache=True, nogil=True)
def apply_bezier(
    image: NDArray[np.float32],
    xs: NDArray[np.float64],
    ys: NDArray[np.float64],
    points: int,
    out: NDArray[np.float32],
) -> None:
    """Map intensities through the cubic Bezier curve with control abscissae `xs` and ordinates `ys`.

    Both coordinates must be monotone along the curve and `xs` run from 0 to 1; intensities outside [0, 1] clamp.
    The curve is cut into `points` chords, denser at its ends, where it may be steep without bound.  The chords
    are tabulated on `points` equal cells of [0, 1]; in the few cells where the table is not straight to 1e-6
    the chord itself is looked for.
    """
    x = np.empty(points + 1, np.float64)
    y = np.empty(points + 1, np.float64)
    for i in range(points + 1):
        u = i / points
        t = u * u * (3.0 - 2.0 * u)
        s = 1.0 - t
        a, b, c, d = s * s * s, 3.0 * s * s * t, 3.0 * s * t * t, t * t * t
        x[i] = a * xs[0] + b * xs[1] + c * xs[2] + d * xs[3]
        y[i] = a * ys[0] + b * ys[1] + c * ys[2] + d * ys[3]
    quarters = np.empty(4 * points + 1, np.float64)
    chords = np.empty(points + 1, np.int32)
    chord = 0
    for q in range(4 * points + 1):
        v = q / (4 * points)
        while chord < points - 1 and x[chord + 1] <= v:
            chord += 1
        quarters[q] = _on_chord(v, chord, x, y)
        if q % 4 == 0:
            chords[q // 4] = chord
    value = np.empty(points + 1, np.float32)
    rise = np.empty(points + 1, np.float32)
    for cell in range(points):
        first, last = quarters[4 * cell], quarters[4 * cell + 4]
        bend = 0.0
        for q in range(1, 4):
            bend = max(bend, abs(quarters[4 * cell + q] - (first + (last - first) * q / 4.0)))
        value[cell] = first
        rise[cell] = last - first if bend < 1e-6 else np.nan
    scale = np.float32(points)
    low, high = np.float32(ys[0]), np.float32(ys[3])
    zero, one = np.float32(0.0), np.float32(1.0)
    for i in range(image.size):
        v = image[i]
        if v >= one:
            out[i] = high
        elif v > zero:
            place = v * scale
            within = np.uint32(place)
            mapped = value[within] + rise[within] * (place - np.float32(within))
            if mapped != mapped:
                chord = chords[within]
                while chord < points - 1 and x[chord + 1] < v:
                    chord += 1
                mapped = np.float32(_on_chord(v, chord, x, y))
            out[i] = mapped
        elif v <= zero:
            out[i] = low
        else:
            out[i] = v
