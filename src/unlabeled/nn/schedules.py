"""Learning-rate schedules: functions of the epoch (fractions count), or of the steps, that return a factor of the first rate."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True)
class BySteps:
    """A schedule that counts steps of its phase instead of epochs, for papers that count iterations.

    Parameters
    ----------
    factor
        ``factor(steps)``: steps done so far.
    """

    factor: Callable[[int], float]


#: ``schedule(epoch, epochs) -> factor``: epochs done so far (fractional) and planned; or a count of steps.
Schedule: TypeAlias = Callable[[float, float], float] | BySteps


def constant(epoch: float, epochs: float) -> float:
    """Keep the first rate.

    >>> constant(3, 10)
    1.0
    """
    return 1.0


def decaying(every: int, factor: float) -> BySteps:
    """Multiply the rate by `factor` after every so many steps.

    >>> [round(decaying(1000, 0.95).factor(steps), 4) for steps in (0, 999, 1000, 2500)]
    [1.0, 1.0, 0.95, 0.9025]
    """
    return BySteps(lambda steps: float(factor ** (steps // every)))


def halving(every: int, factor: float = 0.5) -> Callable[[float, float], float]:
    """Multiply the rate by `factor` every so many whole epochs (torch's StepLR).

    >>> [halving(40)(epoch, 100) for epoch in (0, 39.9, 40, 80)]
    [1.0, 1.0, 0.5, 0.25]
    """

    def schedule(epoch: float, epochs: float) -> float:
        return float(factor ** (int(epoch) // every))

    return schedule


def stepping(
    at: Sequence[float], factor: float = 0.1, of: float | None = None
) -> Callable[[float, float], float]:
    """Multiply the rate by `factor` when each of some numbers of epochs has passed (torch's MultiStepLR).

    With `of`, the numbers are those of a training of so many epochs, and are stretched to the one at hand.

    >>> [round(stepping((60, 80))(epoch, 120), 3) for epoch in (0, 59.9, 60, 80)]
    [1.0, 1.0, 0.1, 0.01]
    >>> [stepping((2, 3), 0.5, of=4)(epoch, 8) for epoch in (3.9, 4, 6)]
    [1.0, 0.5, 0.25]
    """

    def schedule(epoch: float, epochs: float) -> float:
        place = epoch if of is None else epoch * of / epochs
        return float(factor ** sum(place >= end for end in at))

    return schedule


def linear_end(share: float = 0.5) -> Callable[[float, float], float]:
    """Keep the first rate, then let it fall linearly to 0 over the last `share` of the training.

    >>> [linear_end()(epoch, 100) for epoch in (0, 50, 75, 100)]
    [1.0, 1.0, 0.5, 0.0]
    """

    def schedule(epoch: float, epochs: float) -> float:
        return float(min(1.0, max(0.0, 1 - epoch / max(epochs, 1e-9)) / share))

    return schedule


def cosine(warmup: float = 0.0, last: float = 0.0) -> Callable[[float, float], float]:
    """Rise linearly over `warmup` (share of all epochs), then fall on half a cosine to `last`.

    >>> [round(cosine()(epoch, 10), 3) for epoch in (0, 5, 10)]
    [1.0, 0.5, 0.0]
    """

    def schedule(epoch: float, epochs: float) -> float:
        done = min(max(epoch / epochs, 0.0), 1.0)
        if done < warmup:
            return max(done / warmup, 1e-3)
        rest = (done - warmup) / (1 - warmup)
        return last + (1 - last) * 0.5 * (1 + math.cos(math.pi * rest))

    return schedule


def warm_cosine(epochs: float) -> Callable[[float, float], float]:
    """Rise linearly over so many epochs, at most half of all, then fall to 0 on half a cosine.

    >>> [round(warm_cosine(2)(epoch, 10), 3) for epoch in (0, 1, 2, 6, 10)]
    [0.001, 0.5, 1.0, 0.5, 0.0]
    """
    return lambda epoch, planned: cosine(min(epochs / planned, 0.5))(epoch, planned)


def warm_squared_cosine(warmup: float) -> Callable[[float, float], float]:
    """Rise linearly from 0 over `warmup` (share of the training), then fall to 0 as the square of a quarter cosine.

    Source: official code of REFERS (10,000 of 400,000 steps).

    >>> [round(warm_squared_cosine(0.2)(epoch, 10), 3) for epoch in (0, 1, 2, 6, 10)]
    [0.0, 0.5, 1.0, 0.5, 0.0]
    """

    def schedule(epoch: float, epochs: float) -> float:
        done = min(max(epoch / epochs, 0.0), 1.0)
        if done < warmup:
            return done / warmup
        return math.cos(math.pi / 2 * (done - warmup) / max(1 - warmup, 1e-9)) ** 2

    return schedule


def polynomial(power: float = 0.9) -> Callable[[float, float], float]:
    """Fall to zero as ``(1 - done) ** power``, as nnU-Net does.

    >>> polynomial(1.0)(5, 10)
    0.5
    """

    def schedule(epoch: float, epochs: float) -> float:
        return float((1 - min(max(epoch / epochs, 0.0), 1.0)) ** power)

    return schedule
