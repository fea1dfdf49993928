"""How networks normalise for a while: as in evaluation, or by the batch at hand without remembering it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


@contextmanager
def looking_on(modules: Iterable[nn.Module], *, remembering: bool = False) -> Iterator[None]:
    """Within, the networks are in evaluation mode and no gradient is kept; after it, each part is as it was.

    What automatic precision has cast without gradients is forgotten, or a later pass in the same precision would reuse
    it and lose them.

    Parameters
    ----------
    modules
        The networks.
    remembering
        Batch normalisation in training goes on to use the batch at hand and to remember its statistics, for weights that
        move faster than running statistics follow.
    """
    were = [(part, part.training) for module in modules for part in module.modules()]
    for part, training in were:
        part.training = training and remembering and isinstance(part, _BatchNorm)
    try:
        with torch.no_grad():
            yield
    finally:
        for part, training in were:
            part.training = training
        torch.clear_autocast_cache()


@contextmanager
def keeping_statistics(module: nn.Module) -> Iterator[None]:
    """Within, batch normalisation in training uses the batch at hand and leaves the running statistics alone."""
    held = [
        part
        for part in module.modules()
        if isinstance(part, _BatchNorm) and part.track_running_stats
    ]
    for part in held:
        part.track_running_stats = False
    try:
        yield
    finally:
        for part in held:
            part.track_running_stats = True
