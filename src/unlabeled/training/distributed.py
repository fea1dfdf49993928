"""Several processes: gradients averaged by the samples that each saw; methods themselves are not wrapped."""

from __future__ import annotations

import torch
import torch.distributed as dist
from lightning_fabric import Fabric
from torch import Tensor


def average_gradients(optimiser: torch.optim.Optimizer, samples: int) -> None:
    """Average the gradients of an optimiser's parameters over all processes.

    A process counts by the `samples` it saw, so that the result is the gradient of the whole batch's mean.  A parameter
    that had no gradient anywhere keeps none.
    """
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return
    held = [p for group in optimiser.param_groups for p in group["params"]]
    device = held[0].device
    facts = torch.tensor([p.grad is not None for p in held] + [False], device=device).float()
    facts[-1] = samples
    dist.all_reduce(facts)
    touched = [p for p, count in zip(held, facts[:-1].tolist(), strict=True) if count > 0]
    share = samples / float(facts[-1])
    for p in touched:
        if p.grad is None:
            p.grad = torch.zeros_like(p)
    flat = torch.cat([_gradient(p).reshape(-1) for p in touched]).mul_(share)
    dist.all_reduce(flat)
    for p, piece in zip(touched, torch.split(flat, [p.numel() for p in touched]), strict=True):
        _gradient(p).copy_(piece.view_as(p))


def average(fabric: Fabric, values: dict[str, float]) -> dict[str, float]:
    """Average scalars of the same names over all processes."""
    return _reduce(fabric, values, "mean")


def agree(fabric: Fabric, wishes: dict[str, bool]) -> dict[str, bool]:
    """Grant every process's wish to all: what any one wants, all do at the same step."""
    granted = _reduce(fabric, {name: float(wish) for name, wish in wishes.items()}, "max")
    return {name: value > 0 for name, value in granted.items()}


def _reduce(fabric: Fabric, values: dict[str, float], how: str) -> dict[str, float]:
    if fabric.world_size == 1:
        return values
    packed = torch.tensor(list(values.values()), device=fabric.device)
    reduced = fabric.all_reduce(packed, reduce_op=how)
    if not isinstance(reduced, Tensor):
        raise TypeError(f"all_reduce gave {type(reduced)}")
    return dict(zip(values, reduced.tolist(), strict=True))


def _gradient(parameter: torch.nn.Parameter) -> Tensor:
    if parameter.grad is None:
        raise RuntimeError("a parameter lost its gradient between two lines")
    return parameter.grad
