"""How an optimiser moves the weights: all of them in one pass, where it can."""

from __future__ import annotations

import torch

_DEVICES = frozenset({"cpu", "cuda"})


def fuse(optimiser: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """Let an optimiser that has a fused kernel use it, unless its maker chose a way to step.

    Adam, AdamW, SGD and Adagrad of PyTorch have one, the same arithmetic to rounding.  On a CPU it takes a fraction of
    the time (``benchmarks/optimisers.py``), and with small batches the optimiser is a good part of a training step.

    Parameters
    ----------
    optimiser
        Changed in place, before its first step.

    Returns
    -------
    torch.optim.Optimizer
        The same.
    """
    for group in optimiser.param_groups:
        free = "fused" in group and group["fused"] is None and group.get("foreach") is None
        plain = not (group.get("capturable") or group.get("differentiable"))
        if free and plain and all(_fits(weights) for weights in group["params"]):
            group["fused"] = True
    return optimiser


def _fits(weights: torch.Tensor) -> bool:
    return weights.is_floating_point() and weights.device.type in _DEVICES
