"""Optimisers that torch does not have."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, overload

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

Parameters = Iterable[Tensor] | Iterable[dict[str, Any]]


class LARS(torch.optim.Optimizer):
    """Momentum with a rate of its own for each tensor, so that batches of any size move all layers alike.

    For weights w with gradient g::

        g <- g + weight_decay * w
        g <- g * trust * |w| / |g|       (where both lengths are above 0)
        m <- momentum * m + g
        w <- w - lr * m

    Tensors of at most one axis, which are biases and the weights of normalisation, get neither of the first two.

    Parameters
    ----------
    params
        Weights, or groups of weights, as torch's optimisers take them.
    lr
        Rate.
    momentum
        Share of the last step that is kept.
    weight_decay
        Pull towards zero.
    trust
        Length of a step over that of the weights, at a rate of 1.

    Notes
    -----
    Source: You et al., arXiv 1708.03888, with the exceptions and the order of BYOL (Grill et al., NeurIPS 2020).

    >>> weight = torch.nn.Parameter(torch.tensor([[3.0, 4.0]]))
    >>> weight.grad = torch.tensor([[0.0, 10.0]])
    >>> LARS([weight], lr=1.0, trust=0.1).step()         # as long as 0.1 * 5, whatever the gradient's length
    >>> weight.data
    tensor([[3.0000, 3.5000]])
    """

    def __init__(
        self,
        params: Parameters,
        lr: float,
        *,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust: float = 1e-3,
    ) -> None:
        named = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "trust": trust}
        for name, value in named.items():
            if not value >= 0:
                raise ValueError(f"{name} of {value} is not at least 0")
        super().__init__(params, named)

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Move all weights that have a gradient; the closure, if any, computes the loss anew."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            moved = [each for each in group["params"] if each.grad is not None]
            layers = [each for each in moved if each.ndim > 1]
            others = [each for each in moved if each.ndim <= 1]
            self._move(layers, _adapted(layers, group["weight_decay"], group["trust"]), group)
            self._move(others, [_gradient(each) for each in others], group)
        return loss

    def _move(self, weights: list[Tensor], steps: list[Tensor], group: dict[str, Any]) -> None:
        if not weights:
            return
        for each in weights:
            if "momentum" not in self.state[each]:
                self.state[each]["momentum"] = torch.zeros_like(each)
        kept = [self.state[each]["momentum"] for each in weights]
        torch._foreach_mul_(kept, group["momentum"])
        torch._foreach_add_(kept, steps)
        torch._foreach_add_(weights, kept, alpha=-group["lr"])


def decay_groups(modules: Iterable[nn.Module], weight_decay: float) -> list[dict[str, Any]]:
    """Part the parameters that require gradients: those that are pulled towards zero, then biases and normalisation.

    >>> pulled, free = decay_groups([nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3))], 0.1)
    >>> len(pulled["params"]), len(free["params"]), free["weight_decay"]
    (1, 3, 0.0)
    """
    pulled: dict[int, nn.Parameter] = {}
    free: dict[int, nn.Parameter] = {}
    for part in (each for module in modules for each in module.modules()):
        still = isinstance(part, nn.LayerNorm | nn.GroupNorm | _NormBase)
        for name, parameter in part.named_parameters(recurse=False):
            if parameter.requires_grad:
                kept = free if still or name.endswith("bias") else pulled
                kept.setdefault(id(parameter), parameter)
    return [
        {"params": [*pulled.values()], "weight_decay": weight_decay},
        {"params": [*free.values()], "weight_decay": 0.0},
    ]


class Lookahead(torch.optim.Optimizer):
    """Let an optimiser run ahead, and after every few of its steps go only part of the way.

    Slow weights s stand where the fast ones w started; after every k steps of the optimiser::

        s <- s + pull * (w - s)
        w <- s

    What the optimiser itself remembers (momentum) stays.

    Parameters
    ----------
    inner
        The optimiser that takes the steps; groups and state are shared with it.
    every
        k.
    pull
        Share of the way.

    Notes
    -----
    Source: Zhang et al., NeurIPS 2019 (k = 5, pull 0.5).

    >>> weight = torch.nn.Parameter(torch.tensor([1.0]))
    >>> weight.grad = torch.tensor([1.0])
    >>> ahead = Lookahead(torch.optim.SGD([weight], lr=0.1), every=2)
    >>> seen = [float((ahead.step(), weight.detach().clone())[1]) for _ in range(3)]
    >>> [round(each, 2) for each in seen]           # 0.9, then 0.8 and half of the way back, then on
    [0.9, 0.9, 0.8]
    """

    def __init__(self, inner: torch.optim.Optimizer, *, every: int = 5, pull: float = 0.5) -> None:
        if every < 1 or not 0 < pull <= 1:
            raise ValueError(f"no steps of {every} with a pull of {pull}")
        super().__init__(inner.param_groups, {})
        self.inner = inner
        self.every, self.pull = every, pull
        for group in self.param_groups:
            group.setdefault("ahead", 0)  # steps since the slow weights moved

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Take one step of the inner optimiser, and pull the weights back where it is time."""
        self.inner.param_groups, self.inner.state = self.param_groups, self.state  # as loaded
        weights = [each for group in self.param_groups for each in group["params"]]
        fresh = [each for each in weights if "slow" not in self.state.get(each, {})]
        starts = [each.detach().clone() for each in fresh]
        loss = self.inner.step() if closure is None else self.inner.step(closure)
        for each, start in zip(fresh, starts, strict=True):
            self.state[each]["slow"] = start
        for group in self.param_groups:
            group["ahead"] = (group["ahead"] + 1) % self.every
            if group["ahead"] == 0 and group["params"]:
                slow = [self.state[each]["slow"] for each in group["params"]]
                torch._foreach_lerp_(slow, group["params"], self.pull)
                torch._foreach_copy_(group["params"], slow)
        return loss


def _gradient(weight: Tensor) -> Tensor:
    if weight.grad is None:
        raise ValueError("a weight that is moved has no gradient")
    return weight.grad


def _adapted(layers: list[Tensor], weight_decay: float, trust: float) -> list[Tensor]:
    """Give each layer's gradient the length of its weights; lengths stay on the device."""
    if not layers:
        return []
    pulled = torch._foreach_add([_gradient(each) for each in layers], layers, alpha=weight_decay)
    own, slope = (torch.stack(torch._foreach_norm(each)) for each in (layers, pulled))
    factors = torch.where((own > 0) & (slope > 0), trust * own / slope, 1.0)
    return list(torch._foreach_mul(pulled, list(factors.unbind())))
