"""Light augmentation of labelled patches: one draw says how a patch is cut and coloured, then image and mask follow it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from unlabeled.data.store import Record

#: Spacing ratio from which volumes turn and stretch in their fine plane alone (nnU-Net's threshold).
ANISOTROPIC = 3.0


@dataclass(frozen=True)
class Move:
    """What was drawn for one patch.

    Parameters
    ----------
    matrix
        Offset from the patch's centre to offset in the scan, both in voxels; None leaves the grid alone.
    flips
        Axes of space that are reversed.
    gain, offset, gamma, noise
        Intensities: factor about the mean; shift and noise in standard deviations of the patch; exponent over its range.
    """

    matrix: Tensor | None = None
    flips: tuple[int, ...] = ()
    gain: float = 1.0
    offset: float = 0.0
    gamma: float = 1.0
    noise: float = 0.0

    def in_volume(self, within: Sequence[int]) -> Move:
        """Say of a slice's move what it is of the volume: `within` are the slice's axes there."""
        flips = tuple(within[axis] for axis in self.flips)
        if self.matrix is None:
            return replace(self, flips=flips)
        matrix = torch.eye(3, dtype=torch.float64)
        where = torch.tensor(within)
        matrix[where[:, None], where] = self.matrix
        return replace(self, matrix=matrix, flips=flips)


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Probabilities and ranges; nnU-Net's where it has them, but turned down to what few scans need.

    Parameters
    ----------
    p_flip
        Of each axis in `flip_axes`.
    flip_axes
        Axes that may be reversed; None for all.
    p_rotate, degrees
        Turn about each axis by up to so many degrees.
    p_scale, scale
        Zoom by a factor in this range, the same along all axes.
    p_gain, gain, p_offset, offset, p_gamma, gamma, p_noise, noise
        See `Move`; ranges (noise and offset: largest).
    """

    p_flip: float = 0.5
    flip_axes: tuple[int, ...] | None = None
    p_rotate: float = 0.2
    degrees: float = 15.0
    p_scale: float = 0.2
    scale: tuple[float, float] = (0.8, 1.25)
    p_gain: float = 0.15
    gain: tuple[float, float] = (0.75, 1.25)
    p_offset: float = 0.15
    offset: float = 0.25
    p_gamma: float = 0.15
    gamma: tuple[float, float] = (0.7, 1.5)
    p_noise: float = 0.1
    noise: float = 0.1

    def draw(self, spacing: Sequence[float], rng: Generator) -> Move:
        """Draw a move for a patch with these voxel edge lengths (only their ratios count)."""
        dims = len(spacing)
        u = torch.rand(32, generator=rng, dtype=torch.float64).tolist()
        axes = range(dims) if self.flip_axes is None else self.flip_axes
        flips = tuple(axis for axis in axes if axis < dims and u[axis] < self.p_flip)
        matrix = None
        if u[3] < self.p_rotate or u[4] < self.p_scale:
            angles = [self.degrees * (2 * x - 1) for x in u[5:8]] if u[3] < self.p_rotate else None
            low, high = self.scale
            zoom = low * (high / low) ** u[8] if u[4] < self.p_scale else 1.0
            matrix = _matrix(spacing, angles, zoom)

        def within(p: float, chance: float, place: float, ends: tuple[float, float]) -> float:
            return ends[0] + (ends[1] - ends[0]) * place if chance < p else 1.0

        return Move(
            matrix=matrix,
            flips=flips,
            gain=within(self.p_gain, u[9], u[10], self.gain),
            offset=self.offset * (2 * u[12] - 1) if u[11] < self.p_offset else 0.0,
            gamma=within(self.p_gamma, u[13], u[14], self.gamma),
            noise=self.noise * u[16] if u[15] < self.p_noise else 0.0,
        )


def _matrix(spacing: Sequence[float], angles: Sequence[float] | None, zoom: float) -> Tensor:
    """Turn and zoom in millimetres, expressed in voxels."""
    dims = len(spacing)
    edges = torch.tensor(list(spacing), dtype=torch.float64)
    fine = [axis for axis in range(dims) if edges[axis] * ANISOTROPIC > edges.max()]
    coarse = [axis for axis in range(dims) if edges[axis] > ANISOTROPIC * edges.min()]
    free = [axis for axis in range(dims) if axis not in coarse] if fine else list(range(dims))
    turn = torch.eye(dims, dtype=torch.float64)
    if angles is not None:
        planes = [(a, b) for i, a in enumerate(free) for b in free[i + 1 :]]
        for (a, b), angle in zip(planes, angles, strict=False):
            at = torch.deg2rad(torch.tensor(angle, dtype=torch.float64))
            plane = torch.eye(dims, dtype=torch.float64)
            plane[a, a] = plane[b, b] = at.cos()
            plane[a, b], plane[b, a] = -at.sin(), at.sin()
            turn = turn @ plane
    stretch = torch.ones(dims, dtype=torch.float64)
    stretch[free] = 1.0 / zoom
    return (turn * stretch) * edges[None, :] / edges[:, None]


def cut(
    record: Record, start: Sequence[int], size: Sequence[int], move: Move, *, masked: bool
) -> tuple[Tensor, Tensor | None]:
    """Read a patch and, where `masked`, its labels, as the move wants them; intensities are left alone.

    Parameters
    ----------
    record
        Prepared scan.
    start, size
        Patch before the move [voxel]; may reach beyond the scan.
    move
        Turned and zoomed patches read as much of the scan as they show, so that no border is made up.

    Returns
    -------
    tuple
        Image ``channel *size`` (linear interpolation) and labels ``*size`` (nearest voxel) or None.
    """
    if move.matrix is None:
        image = record.patch(tuple(start), tuple(size))
        mask = record.mask_patch(tuple(start), tuple(size)) if masked else None
    else:
        image, mask = _resampled(record, start, size, move.matrix, masked=masked)
    if move.flips:
        image = image.flip([axis + 1 for axis in move.flips])
        mask = None if mask is None else mask.flip(list(move.flips))
    return image, mask


def _resampled(
    record: Record, start: Sequence[int], size: Sequence[int], matrix: Tensor, *, masked: bool
) -> tuple[Tensor, Tensor | None]:
    half = torch.tensor([(n - 1) / 2 for n in size], dtype=torch.float64)
    centre = torch.tensor(list(start), dtype=torch.float64) + half
    reach = matrix.abs() @ half
    low = (centre - reach).floor().long()
    high = torch.maximum((centre + reach).ceil().long(), low + 1)  # grid_sample wants two voxels
    source = (high - low + 1).tolist()
    axes = [torch.arange(n, dtype=torch.float64) - h for n, h in zip(size, half, strict=True)]
    offsets = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)
    where = offsets @ matrix.T + (centre - low)
    grid = (2 * where / (torch.tensor(source) - 1) - 1).flip(-1)[None].float()
    image = F.grid_sample(
        record.patch(tuple(low.tolist()), tuple(source))[None],
        grid,
        mode="bilinear",
        padding_mode="border",
        align_corners=True,
    )[0]
    if not masked:
        return image, None
    labels = record.mask_patch(tuple(low.tolist()), tuple(source))
    moved = F.grid_sample(
        labels[None, None].float(),  # exact: labels are far below 2**24
        grid,
        mode="nearest",
        padding_mode="border",
        align_corners=True,
    )[0, 0]
    return image, moved.long()


def recolour(image: Tensor, move: Move, rng: Generator) -> Tensor:
    """Apply gain, offset, gamma and noise; without any of them, the very same tensor."""
    if move.gamma != 1.0:
        low, high = image.aminmax()
        reach = (high - low).clamp(min=1e-6)
        image = ((image - low) / reach).pow(move.gamma) * reach + low
    if move.gain != 1.0 or move.offset != 0.0 or move.noise != 0.0:
        deviation, mean = torch.std_mean(image)
        image = (image - mean) * move.gain + (mean + move.offset * deviation)
        if move.noise != 0.0:
            image = image + move.noise * deviation * torch.randn(image.shape, generator=rng)
    return image
