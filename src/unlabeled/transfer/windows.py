"""A network's answer on a whole scan, put together from patches that are read one by one from the store."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from unlabeled.data.slices import flat_edges
from unlabeled.data.store import Record


def window_starts(
    space: Sequence[int], size: Sequence[int], *, overlap: float = 0.5
) -> list[tuple[int, ...]]:
    """Place windows so that every voxel is covered and neighbours overlap by at least so much.

    Parameters
    ----------
    space, size
        Edges of scan and window [voxel].
    overlap
        Share of a window's edge that it has in common with the next one.

    Returns
    -------
    list
        Starts; where the scan is smaller than the window, the scan lies in its middle (negative start).

    >>> window_starts((10, 3), (4, 5))
    [(0, -1), (2, -1), (4, -1), (6, -1)]
    """
    along = []
    for n, edge in zip(space, size, strict=True):
        if n <= edge:
            along.append([-((edge - n) // 2)])
            continue
        stride = max(1, int(edge * (1 - overlap)))
        count = math.ceil((n - edge) / stride) + 1
        along.append([round(i * (n - edge) / (count - 1)) for i in range(count)])
    return list(itertools.product(*along))


def window_weights(size: Sequence[int]) -> Tensor:
    """Weigh a window's voxels by a Gaussian about its middle, one eighth of the edge wide, as nnU-Net does.

    The largest weight is 1, the smallest 1/1000, so that no voxel goes unheard.
    """
    weights = torch.ones(())
    for edge in size:
        at = torch.arange(edge, dtype=torch.float64) - (edge - 1) / 2
        line = torch.exp(-0.5 * (at / (edge / 8)) ** 2)
        weights = weights[..., None] * line
    weights = weights / weights.max()
    return weights.clamp(min=1e-3).float()


def sliding_window(
    record: Record,
    network: Callable[[Tensor], Tensor],
    size: Sequence[int],
    *,
    overlap: float = 0.5,
    batch_size: int = 4,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Average a network's outputs over overlapping windows, weighted towards their middles.

    Parameters
    ----------
    record
        Prepared scan; beyond its border it is padded as in training.
    network
        Maps ``batch channel *size`` to ``batch out *size``.
    size
        Edges of a window [voxel]; with two edges on a volume, windows are its slices.
    overlap
        Share of a window's edge in common with the next.
    batch_size
        Windows computed at once.
    device
        Of the network.

    Returns
    -------
    Tensor
        ``out *space``, float32, on the CPU.
    """
    whole = flat_edges(record, size)
    weights = window_weights(whole)
    outputs: Tensor | None = None
    heard = torch.zeros(record.space)
    for starts, given in windows(record, size, overlap=overlap, batch_size=batch_size):
        answers = network(given.to(device)).float().cpu()
        if outputs is None:
            outputs = torch.zeros((answers.shape[1], *record.space))
        for start, answer in zip(starts, answers, strict=True):
            inside, there = _inside(start, whole, record.space)
            placed = answer.reshape(answer.shape[0], *whole)
            outputs[(slice(None), *there)] += placed[(slice(None), *inside)] * weights[inside]
            heard[there] += weights[inside]
    if outputs is None:
        raise RuntimeError("a scan without windows")
    return outputs.div_(heard)


def windows(
    record: Record, size: Sequence[int], *, overlap: float, batch_size: int
) -> Iterator[tuple[list[tuple[int, ...]], Tensor]]:
    """Yield the windows of a scan in batches: starts, and ``batch channel *size``."""
    whole = flat_edges(record, size)
    starts = window_starts(record.space, whole, overlap=overlap)
    for first in range(0, len(starts), batch_size):
        these = starts[first : first + batch_size]
        patches = [record.patch(start, whole) for start in these]
        yield these, torch.stack([patch.reshape(-1, *size) for patch in patches])


def mean_over_windows(
    record: Record,
    network: Callable[[Tensor], Tensor],
    size: Sequence[int],
    *,
    batch_size: int = 8,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Average one row of numbers a window (logits, features) over windows that just cover the scan.

    Parameters
    ----------
    record, size, batch_size, device
        As in `sliding_window`.
    network
        Maps ``batch channel *size`` to ``batch out``.

    Returns
    -------
    Tensor
        ``out``, float32, on the CPU.
    """
    rows = [
        network(given.to(device)).float().cpu()
        for _, given in windows(record, size, overlap=0.0, batch_size=batch_size)
    ]
    return torch.cat(rows).mean(0)


def _inside(
    start: Sequence[int], size: Sequence[int], space: Sequence[int]
) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Give the part of a window that lies in the scan: in the window's and in the scan's voxels."""
    inside, there = [], []
    for first, edge, n in zip(start, size, space, strict=True):
        low, high = max(first, 0), min(first + edge, n)
        inside.append(slice(low - first, high - first))
        there.append(slice(low, high))
    return tuple(inside), tuple(there)
