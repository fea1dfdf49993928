"""Feature maps of two overlapping views, brought to the region that both show.

A view is a box of a scan, scaled to a patch and mirrored along some axes.  Boxes are ``batch axis 2``: the first voxel and
the one behind the last.  Places in a view are shares of its edges before it was mirrored, 0 to 1; cell i of a map with n
cells covers ``[i / n, (i + 1) / n]``.  As boxes have the scan's axes, every axis is interpolated by itself.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor


def shared_box(views: Float[Tensor, "batch 2 axis 2"]) -> Float[Tensor, "batch axis 2"]:
    """Give what lies in both boxes; where nothing does, a box whose stop is no further than its start.

    >>> shared_box(torch.tensor([[[[10.0, 130.0]], [[50.0, 160.0]]]]))
    tensor([[[ 50., 130.]]])
    """
    return torch.stack([views[..., 0].amax(1), views[..., 1].amin(1)], -1)


def shared_places(views: Float[Tensor, "batch 2 axis 2"]) -> Float[Tensor, "batch 2 axis 2"]:
    """Say where the shared box lies in each of two views, as shares of their edges.

    >>> views = torch.tensor([[[[10.0, 130.0]], [[50.0, 160.0]]]])      # scaled to 96 voxels each
    >>> 96 * shared_places(views)
    tensor([[[[32.0000, 96.0000]],
    <BLANKLINE>
             [[ 0.0000, 69.8182]]]])
    """
    start, stop = views[..., :1], views[..., 1:]
    return (shared_box(views)[:, None] - start) / (stop - start)


def cells_shared(
    place: Float[Tensor, "*batch axis 2"], cells: Sequence[int]
) -> Float[Tensor, "*batch axis"]:
    """Count the cells, also in part, that a place covers along each axis of a map with so many."""
    return (place[..., 1] - place[..., 0]) * torch.as_tensor(
        cells, dtype=place.dtype, device=place.device
    )


def align(
    features: Float[Tensor, "batch channel *cells"],
    place: Float[Tensor, "batch axis 2"],
    flips: Bool[Tensor, "batch axis"],
) -> Float[Tensor, "batch channel *cells"]:
    """Mirror a view's map back, cut a place out of it, and scale that to the map's own size, linearly.

    In single precision.  The whole of a view that was not mirrored gives the map as it is.

    Parameters
    ----------
    features
        Of views, whose edges are a whole number of cells.
    place
        What is cut out.
    flips
        Along which axes each view was mirrored.

    >>> ramp = torch.arange(4.0).view(1, 1, 4)
    >>> align(ramp, torch.tensor([[[0.0, 0.5]]]), torch.tensor([[True]]))      # cells 4 to 2 of it, backwards
    tensor([[[3.0000, 2.7500, 2.2500, 1.7500]]])
    """
    with torch.autocast(features.device.type, enabled=False):
        aligned = features.float()
        for axis, cells in enumerate(features.shape[2:]):
            start, stop = place[:, axis, :1], place[:, axis, 1:]
            at = start + (stop - start) * _centres(cells, place)
            at = torch.where(flips[:, axis, None], 1 - at, at)
            aligned = _interpolate(aligned, at * cells - 0.5, axis + 2)
        return aligned


def _interpolate(
    image: Float[Tensor, "batch channel *cells"], at: Float[Tensor, "batch new"], axis: int
) -> Tensor:
    """Read an image along one axis at fractional cells, the outer cells repeated."""
    cells = image.shape[axis]
    apart = at.clamp(0, cells - 1)[..., None] - torch.arange(cells, device=at.device)
    weights = (1 - apart.abs()).clamp_(min=0)  # batch new cell
    last = image.movedim(axis, -1)
    read = last.flatten(1, -2) @ weights.transpose(1, 2)
    return read.view(*last.shape[:-1], at.shape[1]).movedim(-1, axis)


def corresponding_cells(
    views: Float[Tensor, "batch 2 axis 2"],
    flips: Bool[Tensor, "batch 2 axis"],
    cells: Sequence[int],
) -> tuple[Float[Tensor, "batch cell axis"], Bool[Tensor, "batch cell"]]:
    """Say where each cell of the first view's map lies in the second's: its centre [cell], and whether it is in there.

    Cells are listed in the order of ``flatten``; the centre of the second map's first cell is 0.

    >>> views = torch.tensor([[[[0.0, 8.0]], [[2.0, 10.0]]]])      # two voxels apart; cells of two voxels
    >>> at, inside = corresponding_cells(views, torch.zeros(1, 2, 1, dtype=torch.bool), (4,))
    >>> at.flatten().tolist(), inside.tolist()
    ([-1.0, 0.0, 1.0, 2.0], [[False, True, True, True]])
    """
    lines = [_centres(count, views) for count in cells]
    centres = torch.stack(torch.meshgrid(*lines, indexing="ij"), -1).flatten(0, -2)
    first, second = (each[:, None] for each in views.unbind(1))  # batch 1 axis 2
    mirrored, other = (each[:, None] for each in flips.unbind(1))
    share = torch.where(mirrored, 1 - centres, centres)
    voxel = first[..., 0] + share * (first[..., 1] - first[..., 0])
    there = (voxel - second[..., 0]) / (second[..., 1] - second[..., 0])
    inside = ((there >= 0) & (there <= 1)).all(-1)
    there = torch.where(other, 1 - there, there)
    return there * torch.as_tensor(cells, dtype=views.dtype, device=views.device) - 0.5, inside


def count_found(
    query: Float[Tensor, " channel *cells"],
    target: Float[Tensor, " channel *cells"],
    at: Float[Tensor, "cell axis"],
    inside: Bool[Tensor, " cell"],
) -> Float[Tensor, " 2"]:
    """Count the query's cells whose most similar target cell lies within one cell of where it should, and by chance.

    Parameters
    ----------
    query, target
        Maps of one pair; similar is what has the largest cosine.
    at, inside
        Where the query's cells lie in the target; those that do not are not counted.

    Returns
    -------
    Tensor
        How many are found, and how many are to be expected of guessing.
    """
    grid = target.shape[1:]
    lines = [torch.arange(count, device=at.device, dtype=at.dtype) for count in grid]
    cells = torch.stack(torch.meshgrid(*lines, indexing="ij"), -1).flatten(0, -2)
    rows, columns = (F.normalize(each.float().flatten(1), dim=0) for each in (query, target))
    nearest = (rows.T @ columns).argmax(1)
    right = (at[:, None] - cells).abs().amax(-1) <= 1  # query cell, target cell
    found = right.gather(1, nearest[:, None])[:, 0] & inside
    return torch.stack([found.float().sum(), (right.float().mean(1) * inside).sum()])


def _centres(cells: int, like: Tensor) -> Tensor:
    """Give the centres of the cells of a line, as shares of its length."""
    return (torch.arange(cells, dtype=like.dtype, device=like.device) + 0.5) / cells
