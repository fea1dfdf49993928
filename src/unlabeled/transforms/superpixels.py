"""Superpixels and supervoxels: regions of like intensity, by graph merging (Felzenszwalb) or clustering (SLIC)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import (  # type: ignore[attr-defined]
    binary_fill_holes,
    gaussian_filter,
    label,
)

from unlabeled.transforms import _regions

_GRAPH_SCALE = (
    255.0  # of the reference implementation: `scale` goes with differences of up to so many levels
)
_SETTLED = 1e-3  # [voxel]; a clustering whose centres move less has come to its end


def felzenszwalb(
    image: NDArray[Any], *, scale: float = 1.0, sigma: float = 0.8, min_size: int = 20
) -> NDArray[np.int32]:
    """Merge pixels into regions whose borders are stronger than what varies inside (Felzenszwalb and Huttenlocher).

    A pair of regions is merged when the cheapest edge between them costs less than the dearest edge inside either,
    plus ``scale / 255 / size``; edges of a blurred image are taken in the order of their cost.

    Parameters
    ----------
    image
        ``rows columns`` or ``channel rows columns``; 8 neighbours a pixel.
    scale
        Larger gives larger regions; for intensities of 0 to 255 values near 1 make many small ones, which
        `min_size` then joins.
    sigma
        Width of the Gaussian blur beforehand [pixel].
    min_size
        Smaller regions are joined with a neighbour, cheapest edge first [pixel].

    Returns
    -------
    NDArray
        ``rows columns``, regions from 0 in reading order of their first pixels; the same as scikit-image's wherever
        no two edges of unequal importance cost exactly the same.

    Notes
    -----
    Source: Felzenszwalb and Huttenlocher, IJCV 59, 2004.

    >>> felzenszwalb(np.repeat([[0.0, 9.0]], 2, axis=0), sigma=0, min_size=1)
    array([[0, 1],
           [0, 1]], dtype=int32)
    """
    channels = np.asarray(image, np.float64)
    if channels.ndim == 2:
        channels = channels[None]
    if channels.ndim != 3 or channels.size == 0:
        raise ValueError(f"superpixels need rows and columns, not an image of shape {image.shape}")
    blurred = np.stack([gaussian_filter(each, sigma) for each in channels])
    rows, columns = blurred.shape[1:]
    count = rows * (columns - 1) + (rows - 1) * columns + 2 * (rows - 1) * (columns - 1)
    costs = np.empty(count, np.float64)
    _regions.edge_costs(blurred, costs)
    order = np.argsort(costs)
    _regions.settle_ties(costs, order)
    labels = np.empty(rows * columns, np.int32)
    _regions.merge_pixels(rows, columns, costs, order, scale / _GRAPH_SCALE, min_size, labels)
    return labels.reshape(rows, columns)


def slic(
    image: NDArray[Any],
    segments: int,
    *,
    compactness: float = 0.1,
    iterations: int = 10,
    spacing: Sequence[float] | None = None,
    channelled: bool = False,
    least: float = 0.5,
) -> NDArray[np.int32]:
    """Cluster voxels by intensity and place into about so many connected regions (simple linear iterative clustering).

    Each voxel goes to the centre with the smallest ``(intensity difference)^2 + (compactness * distance / S)^2`` among
    those at most `S` away along every axis, where `S` is the edge of a region if all were cubes; centres then move to
    the means of their voxels.

    Parameters
    ----------
    image
        ``*space`` of two or three axes, or ``channel *space`` where `channelled`; all intensities are brought to [0, 1]
        together.
    segments
        How many regions to start from, on a regular grid; the number returned differs a little.
    compactness
        Weight of place against intensity: 0.01 follows every border, 1 gives near-cubes.
    iterations
        Most rounds; a clustering that has settled ends sooner.
    spacing
        Voxel edge lengths [mm]: distances are measured in them; without it, in voxels.
    channelled
        Whether the first axis is channels.
    least
        Parts smaller than this share of the usual region join the neighbour with the longest common border.

    Returns
    -------
    NDArray
        ``*space``, regions from 0 in reading order of their first voxels, each connected through faces.

    Notes
    -----
    Source: Achanta et al., PAMI 34, 2012, with its window of twice S; scikit-image's looks in one of four times S,
    which costs eight times as much in 3D.

    >>> int(slic(np.zeros((16, 16)), 16).max())
    15
    """
    channels = np.asarray(image, np.float32)
    channels = channels if channelled else channels[None]
    space = channels.shape[1:]
    if len(space) not in (2, 3) or channels.size == 0:
        raise ValueError(f"supervoxels need two or three axes of space, not shape {image.shape}")
    if segments < 1 or compactness <= 0:
        raise ValueError("supervoxels need at least one segment and a compactness above 0")
    low, high = float(channels.min()), float(channels.max())
    scaled = (channels - np.float32(low)) * np.float32(1 / (high - low) if high > low else 0)
    flat = (1,) * (3 - len(space))
    edges = (*flat, *space)
    lengths = np.array((*flat, *(spacing or (1.0,) * len(space))), np.float64)
    step = (np.prod(np.multiply(edges, lengths)[3 - len(space) :]) / segments) ** (1 / len(space))
    centres, labels = _grid(edges, lengths, step)
    volume = np.ascontiguousarray(scaled.reshape(-1, *edges))
    colours = np.zeros((len(centres), len(volume)), np.float32)
    _regions.move_centres(volume, labels, centres, colours)
    weights = ((compactness * lengths / step) ** 2).astype(np.float32)
    reach = np.maximum(step / lengths, 1).astype(np.float32)
    distance = np.empty(edges, np.float32)
    for _ in range(iterations):
        _regions.assign_voxels(volume, centres, colours, weights, reach, distance, labels)
        if _regions.move_centres(volume, labels, centres, colours) < _SETTLED:
            break
    return connected_parts(labels, int(least * labels.size / len(centres))).reshape(space)


def connected_parts(labels: NDArray[np.int32], least: int = 1) -> NDArray[np.int32]:
    """Number the connected parts of equal label, and join small ones with a neighbour.

    Parameters
    ----------
    labels
        ``plane row column``; voxels are connected through faces.
    least
        Smaller parts join the neighbour that they share most faces with [voxel].

    Returns
    -------
    NDArray
        Parts from 0, in reading order of their first voxels.

    >>> connected_parts(np.array([[[4, 4, 7, 4]]], np.int32)).tolist()
    [[[0, 0, 1, 2]]]
    """
    parts = np.empty_like(labels)
    count = _regions.number_parts(labels, parts)
    while (left := _regions.join_small_parts(parts, count, least)) < count:
        count = left
    return parts


def _grid(
    edges: Sequence[int], lengths: NDArray[np.float64], step: float
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Divide a volume into cells of nearly `step` [mm] along each axis: their centres [voxel] and every voxel's cell."""
    counts = [
        min(edge, max(1, round(edge * length / step)))
        for edge, length in zip(edges, lengths, strict=True)
    ]
    axes = [(np.arange(n) + 0.5) * edge / n - 0.5 for n, edge in zip(counts, edges, strict=True)]
    centres = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    cells = [np.arange(edge) * n // edge for n, edge in zip(counts, edges, strict=True)]
    labels = np.ravel_multi_index(np.ix_(*cells), counts)
    return centres.astype(np.float32), np.ascontiguousarray(labels, np.int32)


def body_mask(image: NDArray[Any], threshold: float) -> NDArray[np.bool_]:
    """Find the body in a picture: the largest connected part above a threshold, its holes filled.

    Parameters
    ----------
    image
        ``rows columns``; pixels that touch at a corner are connected.
    threshold
        Intensities must exceed it.

    >>> body_mask(np.array([[5, 5, 5, 0], [5, 0, 5, 0], [5, 5, 5, 0], [0, 0, 0, 5]]), 1).sum()
    np.int64(10)
    """
    parts, count = label(image > threshold, structure=np.ones((3, 3)))
    if count == 0:
        return np.zeros(image.shape, np.bool_)
    sizes = np.bincount(parts.reshape(-1))[1:]
    filled: NDArray[np.bool_] = binary_fill_holes(parts == 1 + sizes.argmax())
    return filled
