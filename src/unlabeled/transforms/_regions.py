"""Compiled inner loops of superpixels: they hold no state and release the interpreter lock.

Apart from the other kernels, since numba's cache on disk watches the caller's file alone.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray


@njit(cache=True, nogil=True, inline="always")
def _root(parent, node):  # type: ignore[no-untyped-def]
    """Find the root of a tree and halve the path to it."""
    while parent[node] != node:
        parent[node] = parent[parent[node]]
        node = parent[node]
    return node


@njit(cache=True, nogil=True)
def edge_costs(image: NDArray[np.float64], costs: NDArray[np.float64]) -> None:
    """Measure how unlike neighbouring pixels are, ``channel rows columns``.

    Four runs of edges: to the right, down, down and right, up and right; each in reading order of its first pixel.
    """
    channels, rows, columns = image.shape
    n = 0
    for down, right in ((0, 1), (1, 0), (1, 1), (-1, 1)):
        for i in range(max(0, -down), rows - max(0, down)):
            for j in range(columns - right):
                total = 0.0
                for channel in range(channels):
                    step = image[channel, i + down, j + right] - image[channel, i, j]
                    total += step * step
                costs[n] = np.sqrt(total)
                n += 1


@njit(cache=True, nogil=True)
def settle_ties(costs: NDArray[np.float64], order: NDArray[np.int64]) -> None:
    """Put edges of equal cost into the order of their numbers: a fast sort leaves that to the machine."""
    first = 0
    while first < order.size:
        stop = first + 1
        while stop < order.size and costs[order[stop]] == costs[order[first]]:
            stop += 1
        if stop > first + 1:
            order[first:stop].sort()
        first = stop


@njit(cache=True, nogil=True)
def _list_edges(rows: int, columns: int, edges: NDArray[np.int32]) -> None:
    """List both ends of every edge, in the order of `edge_costs`."""
    n = 0
    for down, right in ((0, 1), (1, 0), (1, 1), (-1, 1)):
        for i in range(max(0, -down), rows - max(0, down)):
            for j in range(columns - right):
                edges[n, 0] = i * columns + j
                edges[n, 1] = (i + down) * columns + j + right
                n += 1


@njit(cache=True, nogil=True)
def merge_pixels(
    rows: int,
    columns: int,
    costs: NDArray[np.float64],
    order: NDArray[np.int64],
    scale: float,
    min_size: int,
    labels: NDArray[np.int32],
) -> int:
    """Merge pixels along edges of rising cost (Felzenszwalb and Huttenlocher), then regions that are too small.

    The root of a region is its first pixel, so regions are numbered in reading order; their count is returned.
    """
    pixels = rows * columns
    edges = np.empty((costs.size, 2), np.int32)
    _list_edges(rows, columns, edges)
    parent = np.arange(pixels).astype(np.int32)
    size = np.ones(pixels, np.int32)
    inner = np.zeros(pixels, np.float64)  # largest cost within a region
    for n in order:
        a, b = _root(parent, edges[n, 0]), _root(parent, edges[n, 1])
        if a == b:
            continue
        if costs[n] < min(inner[a] + scale / size[a], inner[b] + scale / size[b]):
            first, second = min(a, b), max(a, b)
            parent[second] = first
            size[first] += size[second]
            inner[first] = costs[n]
    for n in order:
        a, b = _root(parent, edges[n, 0]), _root(parent, edges[n, 1])
        if a != b and (size[a] < min_size or size[b] < min_size):
            first, second = min(a, b), max(a, b)
            parent[second] = first
            size[first] += size[second]
    count = 0
    for pixel in range(pixels):
        root = _root(parent, pixel)
        if root == pixel:
            labels[pixel] = count
            count += 1
        else:
            labels[pixel] = labels[root]
    return count


@njit(cache=True, nogil=True)
def assign_voxels(
    image: NDArray[np.float32],
    centres: NDArray[np.float32],
    colours: NDArray[np.float32],
    weights: NDArray[np.float32],
    reach: NDArray[np.float32],
    distance: NDArray[np.float32],
    labels: NDArray[np.int32],
) -> None:
    """Give every voxel of ``channel plane row column`` to the nearest centre among those within reach.

    A voxel that no centre reaches keeps its label.  Rows are walked by unsigned indices into flat arrays, without
    branches, so that the compiler takes several voxels at once.

    Parameters
    ----------
    image
        ``channel plane row column``.
    centres, colours
        Place [voxel] and mean of each segment, ``segment axis`` and ``segment channel``.
    weights
        Of the squared distance along each axis.
    reach
        How far a centre looks along each axis [voxel].
    distance, labels
        ``plane row column``; labels start from an earlier assignment.
    """
    channels, planes, rows, columns = image.shape
    values = image.reshape(-1)
    nearest, owner = distance.reshape(-1), labels.reshape(-1)
    nearest[:] = np.inf
    along = np.empty(columns, np.float32)
    far = np.empty(columns, np.float32)
    for label in range(centres.shape[0]):
        z, y, x = centres[label]
        z_first, z_stop = max(0, int(np.ceil(z - reach[0]))), min(planes, int(z + reach[0]) + 1)
        y_first, y_stop = max(0, int(np.ceil(y - reach[1]))), min(rows, int(y + reach[1]) + 1)
        x_first, x_stop = max(0, int(np.ceil(x - reach[2]))), min(columns, int(x + reach[2]) + 1)
        width = np.uint64(max(0, x_stop - x_first))
        for k in range(width):
            along[k] = weights[2] * (np.float32(x_first + k) - x) ** 2
        tone = colours[label, 0]
        number = np.int32(label)
        for i in range(z_first, z_stop):
            across = weights[0] * (np.float32(i) - z) ** 2
            for j in range(y_first, y_stop):
                base = across + weights[1] * (np.float32(j) - y) ** 2
                at = np.uint64((i * rows + j) * columns + x_first)
                for k in range(width):
                    apart = values[at + k] - tone
                    far[k] = base + along[k] + apart * apart
                for channel in range(1, channels):
                    there = at + np.uint64(channel * labels.size)
                    for k in range(width):
                        apart = values[there + k] - colours[label, channel]
                        far[k] += apart * apart
                for k in range(width):
                    held, was = nearest[at + k], owner[at + k]
                    nearer = far[k] < held
                    nearest[at + k] = far[k] if nearer else held
                    owner[at + k] = number if nearer else was


@njit(cache=True, nogil=True)
def move_centres(
    image: NDArray[np.float32],
    labels: NDArray[np.int32],
    centres: NDArray[np.float32],
    colours: NDArray[np.float32],
) -> float:
    """Move every centre to the mean of its voxels; give the farthest move along an axis [voxel].

    An empty segment stays where it is.  Voxels are added up run by run, as neighbours mostly share their label.
    """
    channels, planes, rows, columns = image.shape
    segments = centres.shape[0]
    sums = np.zeros((segments, 4), np.float64)
    tones = np.zeros((segments, channels), np.float64)
    for i in range(planes):
        for j in range(rows):
            k = 0
            while k < columns:
                label = labels[i, j, k]
                first = k
                while k < columns and labels[i, j, k] == label:
                    k += 1
                run = k - first
                sums[label, 0] += run
                sums[label, 1] += run * i
                sums[label, 2] += run * j
                sums[label, 3] += run * 0.5 * (first + k - 1)
                for channel in range(channels):
                    tone = 0.0
                    for at in range(first, k):
                        tone += image[channel, i, j, at]
                    tones[label, channel] += tone
    farthest = 0.0
    for label in range(segments):
        count = sums[label, 0]
        if count > 0:
            for axis in range(3):
                place = sums[label, 1 + axis] / count
                farthest = max(farthest, abs(place - centres[label, axis]))
                centres[label, axis] = place
            for channel in range(channels):
                colours[label, channel] = tones[label, channel] / count
    return farthest


@njit(cache=True, nogil=True)
def number_parts(labels: NDArray[np.int32], parts: NDArray[np.int32]) -> int:
    """Number the connected parts of equal label, ``plane row column``, faces touching; give their count.

    Numbers rise in reading order of the parts' first voxels.
    """
    planes, rows, columns = labels.shape
    parent = np.empty(labels.size, np.int32)
    flat, out = labels.reshape(-1), parts.reshape(-1)
    plane = rows * columns
    n = 0
    for i in range(planes):
        for j in range(rows):
            for k in range(columns):
                root = n
                parent[n] = n
                if k > 0 and flat[n - 1] == flat[n]:
                    root = _root(parent, n - 1)
                    parent[n] = root
                if j > 0 and flat[n - columns] == flat[n]:
                    other = _root(parent, n - columns)
                    first, second = min(root, other), max(root, other)
                    parent[second] = first
                    parent[n] = first
                    root = first
                if i > 0 and flat[n - plane] == flat[n]:
                    other = _root(parent, n - plane)
                    first, second = min(root, other), max(root, other)
                    parent[second] = first
                    parent[n] = first
                n += 1
    count = 0
    for n in range(labels.size):
        root = _root(parent, n)
        if root == n:
            out[n] = count
            count += 1
        else:
            out[n] = out[root]
    return count


@njit(cache=True, nogil=True)
def join_small_parts(parts: NDArray[np.int32], count: int, least: int) -> int:
    """Join each part below `least` voxels with the neighbour that it shares most faces with; give the count left.

    Small parts are joined in the order of their numbers, until each has grown or has no neighbour; numbers rise in
    reading order again.
    """
    planes, rows, columns = parts.shape
    size = np.zeros(count, np.int32)
    flat = parts.reshape(-1)
    for n in range(flat.size):
        size[flat[n]] += 1
    small = size < least
    begin = np.zeros(count + 1, np.int64)  # voxels of the small parts, part by part
    for part in range(count):
        begin[part + 1] = begin[part] + (size[part] if small[part] else 0)
    voxels = np.empty(begin[count], np.int32)
    filled = begin[:-1].copy()
    for n in range(flat.size):
        part = flat[n]
        if small[part]:
            voxels[filled[part]] = n
            filled[part] += 1
    parent = np.arange(count).astype(np.int32)
    faces = np.zeros(count, np.int32)
    touched = np.empty(count, np.int32)
    plane = rows * columns
    for part in range(count):
        if not small[part] or size[_root(parent, part)] >= least:
            continue
        mine = _root(parent, part)
        seen = 0
        for at in range(begin[part], begin[part + 1]):
            n = voxels[at]
            i, rest = divmod(n, plane)
            j, k = divmod(rest, columns)
            for side in range(6):
                if side == 0 and k > 0:
                    other = n - 1
                elif side == 1 and k < columns - 1:
                    other = n + 1
                elif side == 2 and j > 0:
                    other = n - columns
                elif side == 3 and j < rows - 1:
                    other = n + columns
                elif side == 4 and i > 0:
                    other = n - plane
                elif side == 5 and i < planes - 1:
                    other = n + plane
                else:
                    continue
                root = _root(parent, flat[other])
                if root != mine:
                    if faces[root] == 0:
                        touched[seen] = root
                        seen += 1
                    faces[root] += 1
        best = -1
        for at in range(seen):
            root = touched[at]
            if best < 0 or faces[root] > faces[best]:
                best = root
        for at in range(seen):
            faces[touched[at]] = 0
        if best >= 0:
            first, second = min(mine, best), max(mine, best)
            parent[second] = first
            size[first] += size[second]
    number = np.full(count, -1, np.int32)
    left = 0
    for n in range(flat.size):
        root = _root(parent, flat[n])
        if number[root] < 0:
            number[root] = left
            left += 1
        flat[n] = number[root]
    return left
