"""From what a trial measured to what the whole run will take: sums and products, nothing else."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from unlabeled.training.excerpt import cores
from unlabeled.training.rehearsal import Measured
from unlabeled.training.trial import PhaseTrial

LEAST_DOUBT = 0.1  # of the time of steps and of preparing scans: nothing is known better than that


@dataclass(frozen=True, kw_only=True)
class Part:
    """One part of a run's time.

    Parameters
    ----------
    name
        What is done.
    times
        How often.
    each
        Time of one [s].
    seconds
        Of all [s].
    """

    name: str
    times: int
    each: float
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """What a run will take, before anything is asked of the machine.

    Parameters
    ----------
    parts
        Where the time goes, in the order of the run.
    seconds, low, high
        Time of the whole run: expected, and what it hardly falls below or exceeds [s].
    training_share, wait_share
        Share of the time in steps, and share in which they wait for data.
    steps
        Of all phases.
    store_bytes, held_bytes
        Prepared scans that the run adds to the store, and those that are there [byte].
    run_bytes
        The finished run folder [byte].
    peak_bytes
        The same while a checkpoint is written, beside the one that it replaces [byte].
    """

    parts: tuple[Part, ...]
    seconds: float
    low: float
    high: float
    training_share: float
    wait_share: float
    steps: int
    store_bytes: int
    held_bytes: int
    run_bytes: int
    peak_bytes: int


def forecast(measured: Measured) -> Forecast:
    """Multiply what was measured by how often it happens, and add it up."""
    prepare = _preparing(measured)
    parts = [
        _part("starting, reading the index", 1, measured.start),
        _part("preparing scans", measured.preparation.fresh, prepare, whole=True),
        _part("building the networks", 1, measured.setup),
    ]
    doubt_low = doubt_high = LEAST_DOUBT * prepare
    stepping = waiting = 0.0
    for phase in measured.phases:
        of = f" ({phase.name})" if len(measured.phases) > 1 else ""
        steps = phase.steps * phase.step
        once = phase.start + phase.end
        once += max(0.0, phase.first_score - phase.score) if phase.scores else 0.0
        parts += [
            _part(f"beginning and end{of}", 1, once),
            _part(f"training steps{of}", phase.steps, phase.step),
            _part(f"lines of the log{of}", phase.lines, phase.line),
            _part(f"scores and previews{of}", phase.scores, phase.score),
            _part(f"checkpoints{of}", phase.saves, phase.save),
            _part(f"best weights{of}", phase.bests, phase.best),
        ]
        stepping += steps
        waiting += steps * phase.wait
        doubt_low += max(LEAST_DOUBT * steps, phase.steps * (phase.step - phase.step_low))
        doubt_high += max(LEAST_DOUBT * steps, phase.steps * (phase.step_high - phase.step))
    parts.append(_part("writing the encoder", 1, measured.finish))
    seconds = math.fsum(part.seconds for part in parts)
    return Forecast(
        parts=tuple(part for part in parts if part.times),
        seconds=seconds,
        low=seconds - doubt_low,
        high=seconds + doubt_high,
        training_share=stepping / max(seconds, 1e-9),
        wait_share=waiting / max(seconds, 1e-9),
        steps=sum(phase.steps for phase in measured.phases),
        store_bytes=measured.preparation.fresh_bytes,
        held_bytes=measured.preparation.held_bytes,
        **_disk(measured),
    )


def _part(name: str, times: int, seconds: float, *, whole: bool = False) -> Part:
    """Make a part of the time of one, or of the time of all."""
    if whole:
        return Part(name=name, times=times, each=seconds / max(1, times), seconds=seconds)
    return Part(name=name, times=times, each=seconds, seconds=times * seconds)


def _preparing(measured: Measured) -> float:
    """Time until all scans are prepared: processes share the work as far as there are processors [s]."""
    its = measured.preparation
    work = its.work / max(1, min(its.crew, cores()))
    return its.looking + its.once + its.gathering + work


def _disk(measured: Measured) -> dict[str, Any]:
    """Size of the run folder [byte]: every preview and line of the log, the checkpoints, the encoder."""
    logs = sum(_log_bytes(phase, measured.board_bytes) for phase in measured.phases)
    previews = sum(phase.scores * phase.preview_bytes for phase in measured.phases)
    rest = round(logs + previews) + measured.encoder_bytes + measured.other_bytes
    last, best = measured.last_bytes, measured.best_bytes
    largest = max([last, *(phase.save_bytes for phase in measured.phases)])
    return {"run_bytes": rest + last + best, "peak_bytes": rest + 2 * largest + best}


def _log_bytes(phase: PhaseTrial, board: float) -> float:
    return phase.lines * (phase.line_bytes + board) + phase.scores * phase.score_bytes
