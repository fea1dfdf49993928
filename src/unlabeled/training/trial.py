"""A few steps of each phase of a real run, with a watch in hand."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from scipy.stats import trim_mean

from unlabeled.methods._base import Phase, Update
from unlabeled.training.checkpoint import Checkpoint
from unlabeled.training.engine import Loop
from unlabeled.training.loader import AHEAD, Plan
from unlabeled.training.progress import Reporter
from unlabeled.training.settings import choose_workers
from unlabeled.training.state import Progress, Result

WARMING = 2  # steps that are not counted; with workers, as many as they make ahead
SETTLED = 0.02  # standard error over mean at which the time of a step is known well enough
BLOCKS = 10  # fewest blocks of steps that are called settled
TRIMMED = 0.1  # share of the slowest and of the fastest blocks that do not count
SEGMENTS = 5  # stretches of a trial whose means tell how much the time of a step wanders


@dataclass(frozen=True, kw_only=True)
class PhaseTrial:
    """What a few steps of one phase took, and how many there will be; times in seconds, sizes in bytes.

    Parameters
    ----------
    name
        Of the phase.
    steps, epoch_steps
        Steps of the whole phase, and of an epoch.
    scores, lines, saves, bests
        How often the run scores held-out subjects, logs, writes a checkpoint on its way, and writes the best one.
    tried
        Steps that were taken.
    start
        From the beginning of the phase to its first step, and what the first steps took longer than others.
    step, step_low, step_high
        Time of a step with waiting, without logging: the trimmed mean, and the lowest and highest of a few stretches.
    wait
        Share of it in which training waited for data.
    processors
        How many were busy with it on average; on a CPU, fewer than one means that other programs had them.
    line, score, first_score, save, best
        Time of one of each.
    end
        Of the end of the phase, with its last checkpoint.
    line_bytes, score_bytes, preview_bytes
        Size of a line of the log, of the line of a score, and of a preview.
    save_bytes
        Size of a checkpoint on the way, with the state of the optimisers; 0 where none is written.
    """

    name: str
    steps: int
    epoch_steps: int
    scores: int
    lines: int
    saves: int
    bests: int
    tried: int
    start: float
    step: float
    step_low: float
    step_high: float
    wait: float
    processors: float = 1.0
    line: float = 0.0
    score: float = 0.0
    first_score: float = 0.0
    save: float = 0.0
    best: float = 0.0
    end: float = 0.0
    line_bytes: float = 0.0
    score_bytes: float = 0.0
    preview_bytes: float = 0.0
    save_bytes: int = 0


class Watch:
    """The times of steps: of each its computation, and the pause before it.

    Parameters
    ----------
    block
        Steps that are averaged before anything else: a round of the loader's workers, or of batches made at a time.
    warming
        Steps at the beginning that do not count, as long as there are others.
    """

    def __init__(self, block: int, warming: int) -> None:
        self.block, self.warming = block, warming
        self.began = time.perf_counter()
        self.entered: list[float] = []
        self.left: list[float] = []
        self.worked: list[float] = []  # processor time of this process at the end of each step
        self.pauses: list[float] = []  # before each step but the first, without what else was done
        self.aside = 0.0  # time since the last step that is no pause

    def enter(self) -> None:
        """Note that a step begins."""
        now = time.perf_counter()
        if self.left:
            self.pauses.append(max(0.0, now - self.left[-1] - self.aside))
        self.aside = 0.0
        self.entered.append(now)

    def leave(self) -> None:
        """Note that it has ended."""
        self.left.append(time.perf_counter())
        self.worked.append(time.process_time())

    @property
    def rounds(self) -> list[float]:
        """Time of each step but the first, with the pause before it [s]."""
        work = [left - entered for entered, left in zip(self.entered, self.left, strict=True)]
        return [own + pause for own, pause in zip(work[1:], self.pauses, strict=True)]

    def counted(self) -> tuple[list[float], list[float]]:
        """Give the rounds that count, and their pauses; that of the only step where there is one."""
        rounds = self.rounds
        if not rounds:
            return [self.left[0] - self.entered[0]], [0.0]
        skipped = min(self.warming, len(rounds) // 2)
        return rounds[skipped:], self.pauses[skipped:]

    def blocks(self) -> list[float]:
        """Average the rounds that count, block by block; an incomplete last one counts where there is no other."""
        rounds, _ = self.counted()
        whole = max(1, len(rounds) // self.block)
        cut = [rounds[place * self.block : (place + 1) * self.block] for place in range(whole)]
        return [sum(each) / len(each) for each in cut]

    def enough(self, seconds: float) -> bool:
        """Say whether the time of a step is known, or `seconds` are over and some steps were timed."""
        counting = len(self.left) - 1 - self.warming
        if counting < self.block:
            return False
        spent = self.left[-1] - self.entered[0]
        if spent > seconds:
            return True
        blocks = self.blocks()
        if len(blocks) < BLOCKS or spent < seconds / 4:
            return False
        mean = sum(blocks) / len(blocks)
        variance = sum((each - mean) ** 2 for each in blocks) / (len(blocks) - 1)
        return math.sqrt(variance / len(blocks)) < SETTLED * mean

    def step(self) -> tuple[float, float, float]:
        """Time of a step: lowest stretch, trimmed mean, highest stretch [s]."""
        blocks = self.blocks()
        middle = float(trim_mean(blocks, TRIMMED))
        length = math.ceil(len(blocks) / SEGMENTS)
        stretches = [blocks[at : at + length] for at in range(0, len(blocks), length)]
        means = [sum(each) / len(each) for each in stretches if len(each) == length]
        return min(middle, *means), middle, max(middle, *means)

    def wait(self) -> float:
        """Share of the rounds that count in which training waited."""
        rounds, pauses = self.counted()
        return sum(pauses) / max(sum(rounds), 1e-9)

    def processors(self) -> float:
        """Processors that were busy with the rounds that count, on average; 1 where there was a single step."""
        first = len(self.left) - 1 - len(self.counted()[1])
        spent = self.left[-1] - self.left[first]
        return (self.worked[-1] - self.worked[first]) / spent if spent > 0 else 1.0

    def start(self) -> float:
        """Time before the first step, and what the steps that do not count took longer than the others [s]."""
        _, middle, _ = self.step()
        counted, _ = self.counted()
        first = self.left[0] - self.entered[0]
        skipped = self.rounds[: len(self.rounds) - len(counted)] if self.rounds else []
        extra = first + sum(skipped) - (1 + len(skipped)) * middle
        return self.entered[0] - self.began + max(0.0, extra)


class Trial(Loop):
    """The loop, which ends each phase when the time of its steps is known, and tries then what else the phase does.

    Parameters
    ----------
    seconds
        For the steps of all phases together [s].
    say
        Told what is being tried.
    """

    def __init__(self, *given: Any, seconds: float, say: Callable[[str], None]) -> None:
        super().__init__(*given)
        self.seconds, self.say = seconds / len(self.phases), say
        self.trials: list[PhaseTrial] = []
        self.probing = False  # whether the loop's ends of epochs are really carried out
        self.writing: dict[str, list[float]] = {}
        self.logged: list[tuple[float, int]] = []  # of the phase: time, size of each line
        self.lines = 0  # of all phases
        self.optimisers: Mapping[str, Any] = {}
        workers = choose_workers(self.settings, self.fabric)
        self.pace = max(workers or AHEAD, 10 if self._on_cuda else 1)
        self.warming = max(WARMING, 2 * workers)

    def run(self) -> Result:
        """Try every phase."""
        if self._on_cuda:
            torch.cuda.reset_peak_memory_stats(self.fabric.device)
        return super().run()

    @property
    def gpu_memory(self) -> int | None:
        """Most memory that torch held on the device so far [byte]; None without CUDA."""
        return torch.cuda.max_memory_reserved(self.fabric.device) if self._on_cuda else None

    @property
    def _on_cuda(self) -> bool:
        return bool(self.fabric.device.type == "cuda")

    def _run_phase(self, phase: Phase, saved: Checkpoint | None) -> None:
        self.say(f"trying a few steps of phase {phase.name}")
        self.watch = Watch(self.pace, self.warming)
        self.writing, self.logged = {}, []
        super()._run_phase(phase, saved)

    def _length(self, phase: Phase, plan: Plan) -> tuple[float, int]:
        epochs, self.steps = super()._length(phase, plan)
        self.epoch_steps = plan.steps_per_epoch
        return epochs, self.steps

    def _step(
        self, phase: Phase, batch: Any, optimisers: Mapping[str, Any], plan: Plan
    ) -> list[Update]:
        taken = len(self.watch.left)
        if taken % self.pace == 0:
            self._synchronise()
        self.watch.enter()
        performed = super()._step(phase, batch, optimisers, plan)
        if (taken + 1) % self.pace == 0:
            self._synchronise()
        self.watch.leave()
        self.optimisers = optimisers
        self.enough = self.watch.enough(self.seconds)
        return performed

    def _log_step(
        self,
        phase: Phase,
        updates: Sequence[Update],
        optimisers: Mapping[str, Any],
        reporter: Reporter,
        done: int,
        waited: float,
        began: float,
    ) -> None:
        self._synchronise()
        at, size = time.perf_counter(), self.folder.log_length()
        super()._log_step(phase, updates, optimisers, reporter, done, waited, began)
        spent = time.perf_counter() - at
        self.watch.aside += spent
        self.logged.append((spent, self.folder.log_length() - size))
        self.lines += 1

    def _end_epoch(self, phase: Phase, *, last: bool) -> None:
        if self.probing:
            super()._end_epoch(phase, last=last)

    def _due(self, last_saved: float, done: int) -> bool:
        return False

    def _end_phase(self, phase: Phase) -> None:
        watch = self.watch
        low, middle, high = watch.step()
        scores = self._scores()
        logs = self.logged or [(0.0, 0)]
        facts: dict[str, Any] = {
            "name": phase.name,
            "steps": self.steps,
            "epoch_steps": self.epoch_steps,
            "scores": scores,
            "lines": count_lines(self.steps, self.epoch_steps, self.settings.log_every),
            "tried": len(watch.left),
            "start": watch.start(),
            "step": middle,
            "step_low": low,
            "step_high": high,
            "wait": watch.wait(),
            "processors": watch.processors(),
            "line": sorted(seconds for seconds, _ in logs)[len(logs) // 2],
            "line_bytes": sum(size for _, size in logs) / len(logs),
        }
        if scores:
            facts |= self._try_score(phase)
        best = self.writing.get(self.folder.best.name, [])
        facts["bests"] = bests = (scores + 1) // 2 if best else 0
        facts["best"] = best[-1] if bests else 0.0
        took = self.steps * middle + scores * facts.get("score", 0.0)
        facts["saves"] = self._saves(took)
        if facts["saves"]:
            self.say(f"writing a checkpoint of phase {phase.name}")
            facts["save"] = self._timed(lambda: self._save(self.optimisers))
            facts["save_bytes"] = self.folder.last.stat().st_size
        self.enough, self.reason = False, "finished"
        facts["end"] = self._timed(lambda: super(Trial, self)._end_phase(phase))
        self.trials.append(PhaseTrial(**facts))

    def _try_score(self, phase: Phase) -> dict[str, float]:
        """Score twice, as the first one of a phase may take longer; not the time of writing the best weights."""
        self.say(f"scoring held-out subjects in phase {phase.name}")
        self.probing = True
        before, size = self._preview_bytes(), self.folder.log_length()
        times: list[float] = []
        while len(times) < 2 and sum(times) < self.seconds:
            writes = sum(map(sum, self.writing.values()))
            spent = self._timed(lambda: self._end_epoch(phase, last=True))
            times.append(spent - (sum(map(sum, self.writing.values())) - writes))
        self.probing = False
        return {
            "first_score": times[0],
            "score": times[-1],
            "score_bytes": (self.folder.log_length() - size) / len(times),
            "preview_bytes": self._preview_bytes() - before,
        }

    def _preview_bytes(self) -> int:
        return sum(path.stat().st_size for path in self.folder.previews.iterdir())

    def _scores(self) -> int:
        """Count the scores of the whole phase, asking whoever decides about each."""
        asked = Progress()
        count = done = 0
        while done < self.steps:
            taken = min(self.epoch_steps, self.steps - done)
            done += taken
            asked.unscored += taken
            if self.watcher.due(asked, last=done == self.steps):
                count += 1
                asked.unscored = 0
        return count

    def _saves(self, took: float) -> int:
        """Count the checkpoints on the way of a phase that takes so long [s]."""
        every = self.settings.checkpoint_steps
        return count_saves(self.steps, took, every, self.settings.checkpoint_minutes)

    def _write(self, path: Path, optimisers: Mapping[str, Any]) -> None:
        spent = self._timed(lambda: super(Trial, self)._write(path, optimisers))
        self.writing.setdefault(path.name, []).append(spent)

    def _timed(self, action: Callable[[], object]) -> float:
        self._synchronise()
        began = time.perf_counter()
        action()
        self._synchronise()
        return time.perf_counter() - began

    def _synchronise(self) -> None:
        if self._on_cuda:
            torch.cuda.synchronize(self.fabric.device)


def count_lines(steps: int, epoch_steps: int, every: int) -> int:
    """Count the lines that a phase logs: every so many steps, at the end of each epoch, and at the last step.

    >>> count_lines(10, 4, 3)  # 3 4 6 8 9 10
    6
    """
    both = math.lcm(epoch_steps, every)
    count = steps // every + steps // epoch_steps - steps // both
    return count + (1 if steps % every and steps % epoch_steps else 0)


def count_saves(steps: int, seconds: float, every: int | None, minutes: float) -> int:
    """Count the checkpoints that a phase writes on its way: every so many steps, or minutes.

    >>> count_saves(100, 3600.0, None, 5.0), count_saves(100, 3600.0, 30, 5.0), count_saves(100, 9.0, None, 0.0)
    (12, 3, 100)
    """
    if every is not None:
        return steps // every
    return steps if not minutes else min(steps, int(seconds / (60 * minutes)))
