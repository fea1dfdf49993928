"""Where a run is, what it remembers, and what it came to."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Clock:
    """Where a run is: phase and epoch and step within it, and rounds of updates in all, each counted from 0."""

    phase: int = 0
    epoch: int = 0
    step: int = 0
    total: int = 0


@dataclass
class Progress:
    """What a run remembers besides weights: kept in every checkpoint."""

    clock: Clock = field(default_factory=Clock)
    best: float | None = None
    epochs_since_best: int = 0
    unscored: int = 0


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a training came to.

    Parameters
    ----------
    steps
        Rounds of updates in all, over resumptions.
    score
        Last pretext scores on held-out subjects, with chance levels.
    best
        Best value of the method's monitor; None where nothing was held out.
    seconds
        Wall time of this process's part.
    wait_share
        Share of that time in which training waited for data.
    exit_reason
        ``finished``, ``interrupted`` or ``patience``.
    """

    steps: int
    score: dict[str, float]
    best: float | None
    seconds: float
    wait_share: float
    exit_reason: str
