"""Rows of all processes: what a loss that compares samples with each other has to see."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable


def gather_rows(rows: Tensor) -> Tensor:
    """Bring the rows of all processes together, in the order of the processes; alone, give them as they are.

    Gradients flow to the own rows.  They are scaled so that a loss that every process computes over all rows trains
    as on one device: the loop averages gradients by the samples that each process saw.

    Parameters
    ----------
    rows
        ``row ...``, of the same shape and type in all processes but for the number of rows.

    Returns
    -------
    Tensor
        ``row ...``, equal in all processes.
    """
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return rows
    gathered: Tensor = _Gather.apply(rows)  # type: ignore[no-untyped-call]
    return gathered


class _Gather(torch.autograd.Function):
    """All-gather of unequal parts; every process holds the whole loss, so going back needs no communication."""

    @staticmethod
    def forward(ctx: FunctionCtx, rows: Tensor) -> Tensor:
        counts = [
            torch.zeros(1, dtype=torch.long, device=rows.device)
            for _ in range(dist.get_world_size())
        ]
        dist.all_gather(counts, torch.tensor([len(rows)], device=rows.device))
        lengths = torch.cat(counts).tolist()
        padded = rows.new_zeros(max(lengths), *rows.shape[1:])
        padded[: len(rows)] = rows
        parts = [torch.empty_like(padded) for _ in lengths]
        dist.all_gather(parts, padded)
        first = sum(lengths[: dist.get_rank()])
        ctx.own = slice(first, first + len(rows))  # type: ignore[attr-defined]
        ctx.scale = sum(lengths) / max(len(rows), 1)  # type: ignore[attr-defined]
        return torch.cat([part[:length] for part, length in zip(parts, lengths, strict=True)])

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, upstream: Tensor) -> Tensor:
        own: Tensor = upstream[ctx.own] * ctx.scale  # type: ignore[attr-defined]
        return own
