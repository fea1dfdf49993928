"""Warps: images sampled at other places, and thin-plate splines that move landmarks onto landmarks.

Positions are in [-1, 1] along each axis, -1 and 1 at the centres of the outer voxels, the last axis of space first (x is
the column, y the row), as `torch.nn.functional.grid_sample` wants them with ``align_corners=True``.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

#: Keeps the logarithm finite where two points meet (published code of Bhalodia et al., 2020).
SMOOTHING = 1e-4


def sample(
    image: Float[Tensor, "batch channel *space"],
    grid: Float[Tensor, "batch *target dims"],
    *,
    aligned: bool = True,
    border: bool = False,
) -> Float[Tensor, "batch channel *target"]:
    """Read an image at positions, (bi/tri)linearly.

    Parameters
    ----------
    image
        Read in the grid's number format.
    grid
        Positions; those of `identity_grid` give the image back.
    aligned
        Whether -1 and 1 are the centres of the outer voxels; else their outer edges.
    border
        Repeat the outer voxels beyond the image, instead of zeros.
    """
    padding = "border" if border else "zeros"
    return F.grid_sample(image.to(grid.dtype), grid, "bilinear", padding, align_corners=aligned)


def identity_grid(
    space: Sequence[int], *, dtype: torch.dtype = torch.float32, device: torch.device | None = None
) -> Float[Tensor, "*space dims"]:
    """Give the position of every voxel.

    >>> identity_grid((2, 3))[1]
    tensor([[-1.,  1.],
            [ 0.,  1.],
            [ 1.,  1.]])
    """
    lines = [torch.linspace(-1, 1, edge, dtype=dtype, device=device) for edge in space]
    return torch.stack(torch.meshgrid(*lines, indexing="ij")[::-1], dim=-1)


def to_voxels(
    positions: Float[Tensor, "*batch dims"], space: Sequence[int]
) -> Float[Tensor, "*batch dims"]:
    """Turn positions into voxels: ``(position + 1) / 2 * (edge - 1)``, the first axis of space first.

    >>> to_voxels(torch.tensor([1.0, -1.0]), (5, 9))
    tensor([0., 8.])
    """
    last = torch.as_tensor(space, dtype=positions.dtype, device=positions.device) - 1
    return (positions.flip(-1) + 1) / 2 * last


def radial(squared: Tensor, dims: int) -> Tensor:
    """Give the spline's kernel U of squared distances d.

    In 2D ``d log(sqrt(d + 1e-4))`` as published; in 3D ``-d / sqrt(d + 1e-4)``, the kernel -r (Bookstein, TPAMI 1989)
    smoothed alike: with this sign, spline matrices of both have the same definiteness.

    >>> radial(torch.tensor([0.25, 0.04]), 2)  # 0.25 * log(sqrt(0.2501))
    tensor([-0.1732, -0.0643])
    """
    if dims == 2:
        return 0.5 * squared * torch.log(squared + SMOOTHING)
    return -squared * torch.rsqrt(squared + SMOOTHING)


def spline_matrix(
    points: Float[Tensor, "batch points dims"], ridge: float = 0.0
) -> Float[Tensor, "batch size size"]:
    """Build the matrix A of a thin-plate spline through points; ``size = points + dims + 1``.

    Rows are those of the published code: the side conditions ``[points^T | 0]`` and ``[1 | 0]``, then the points'
    own ``[U | points | 1]``.

    Parameters
    ----------
    points
        Where values will be given, at least ``dims + 1`` of them, not all on one line (plane).
    ridge
        Added to the kernel's diagonal: values are then met but for `ridge` times the kernel weights, and A stays
        invertible when points meet.
    """
    batch, count, dims = points.shape
    distance = (points[:, :, None] - points[:, None]).square().sum(-1)
    kernel = radial(distance, dims) + ridge * torch.eye(
        count, dtype=points.dtype, device=points.device
    )
    affine = torch.cat([points, points.new_ones(batch, count, 1)], dim=-1)
    conditions = torch.cat(
        [affine.transpose(1, 2), points.new_zeros(batch, dims + 1, dims + 1)], dim=-1
    )
    return torch.cat([conditions, torch.cat([kernel, affine], dim=-1)], dim=1)


def solve_spline(
    matrix: Float[Tensor, "batch size size"],
    values: Float[Tensor, "batch points dims"],
    damping: float = 0.0,
) -> Float[Tensor, "batch size dims"]:
    """Solve ``A w = [0, values]``: a column of kernel weights, linear part and offset for each coordinate.

    Parameters
    ----------
    matrix
        As `spline_matrix` makes it.
    values
        What the spline takes at the points.
    damping
        Added to the diagonal of the whole matrix, as the published code does; as its first rows are side conditions,
        that is no ridge.

    Returns
    -------
    Tensor
        Not finite where the matrix is singular.
    """
    batch, _, dims = values.shape
    if damping:
        eye = torch.eye(matrix.shape[1], dtype=matrix.dtype, device=matrix.device)
        matrix = matrix + damping * eye
    right = torch.cat([values.new_zeros(batch, dims + 1, dims), values], dim=1)
    weights: Tensor = torch.linalg.solve_ex(matrix, right)[0]
    return weights


def spline_grid(
    weights: Float[Tensor, "batch size dims"],
    points: Float[Tensor, "batch points dims"],
    space: Sequence[int],
) -> Float[Tensor, "batch *space dims"]:
    """Evaluate a spline at every voxel of a grid: ``[U(voxel, points), voxel, 1] w``."""
    batch, count, dims = points.shape
    squared: Tensor | None = None
    for axis, edge in enumerate(space):  # the distance is a sum over axes: each costs one line
        line = torch.linspace(-1, 1, edge, dtype=points.dtype, device=points.device)
        part = (line[None, :, None] - points[:, None, :, dims - 1 - axis]).square()
        part = part.view(batch, *(edge if a == axis else 1 for a in range(dims)), count)
        squared = part if squared is None else squared + part
    if squared is None:
        raise ValueError("a grid needs at least one axis")
    bent = radial(squared, dims).flatten(1, -2) @ weights[:, :count]
    at = identity_grid(space, dtype=points.dtype, device=points.device).flatten(0, -2)
    straight = at @ weights[:, count:-1] + weights[:, -1:]
    return (bent + straight).view(batch, *space, dims)


def condition_number(
    matrix: Float[Tensor, "batch size size"],
) -> Float[Tensor, " batch"]:
    """Give ``|A|_F |A^-1|_F`` of each matrix, no finite number where it has no inverse.

    >>> condition_number(torch.diag(torch.tensor([1.0, 2.0]))[None])  # sqrt(5) * sqrt(1 + 1/4)
    tensor([2.5000])
    """
    inverse = torch.linalg.inv_ex(matrix)[0]
    kappa: Tensor = torch.linalg.matrix_norm(matrix) * torch.linalg.matrix_norm(inverse)
    return kappa


def corners(dims: int) -> Tensor:
    """List the corners of a patch in the official order, x before y; in 3D first those with z = -1.

    >>> corners(2).tolist()
    [[-1.0, -1.0], [-1.0, 1.0], [1.0, 1.0], [1.0, -1.0]]
    """
    flat = ((-1.0, -1.0), (-1.0, 1.0), (1.0, 1.0), (1.0, -1.0))
    solid = [(x, y, z) for z in (-1.0, 1.0) for x, y in flat]
    return torch.tensor(flat if dims == 2 else solid)
