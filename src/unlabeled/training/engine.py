"""The one loop: a method yields its updates, the engine performs them; everything else of a run is here and beside."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor
from torch.utils._pytree import tree_map

from unlabeled.data.store import Record
from unlabeled.errors import RunError, UnlabeledError
from unlabeled.methods._base import Method, Phase, Update, parameters
from unlabeled.nn.schedules import BySteps, Schedule
from unlabeled.rng import reseed
from unlabeled.training import checkpoint as checkpoints
from unlabeled.training.distributed import agree, average, average_gradients
from unlabeled.training.loader import Plan, items_of, load, make_plan
from unlabeled.training.log import Log, RunFolder
from unlabeled.training.optimisers import fuse
from unlabeled.training.precision import Arithmetic, lay_out
from unlabeled.training.progress import Reporter
from unlabeled.training.settings import Settings, choose_workers, make_fabric
from unlabeled.training.signals import heed_signals
from unlabeled.training.state import Clock, Progress, Result
from unlabeled.training.watch import Watcher


def train(
    method: Method,
    records: Sequence[Record],
    held_out: Sequence[Record],
    settings: Settings,
    folder: RunFolder,
    *,
    fabric: Fabric | None = None,
    arithmetic: Arithmetic | None = None,
    title: str = "pretraining",
) -> Result:
    """Run every phase of a method, or go on where the folder's last checkpoint stands.

    Parameters
    ----------
    method
        Networks and algorithm; moved to the device and trained in place.
    records
        Scans to learn from.
    held_out
        Scans of other subjects, for the pretext score; may be empty.
    settings
        How the run uses the machine.
    folder
        Where it writes; already created.
    fabric, arithmetic
        Device and number format; made from the settings when absent.

    Raises
    ------
    RunError
        The loss is no number any more, a checkpoint does not fit, or the disk is full.
    """
    if fabric is None or arithmetic is None:
        fabric, arithmetic = make_fabric(settings)
    loop = Loop(method, records, held_out, settings, folder, fabric, arithmetic, title)
    return loop.run()


class Loop:
    """One training in this process; `training.trial` runs a few steps of it with a watch in hand."""

    def __init__(
        self,
        method: Method,
        records: Sequence[Record],
        held_out: Sequence[Record],
        settings: Settings,
        folder: RunFolder,
        fabric: Fabric,
        arithmetic: Arithmetic,
        title: str,
    ) -> None:
        self.fabric, self.arithmetic, self.settings = fabric, arithmetic, settings
        self.folder, self.title = folder, title
        self.records = records
        self.options = method.options
        self.dims = method.encoder.dims
        lay_out(method.to(fabric.device), self.dims, arithmetic)
        self.method = method
        self.phases = method.phases()
        self.watcher = Watcher(method, held_out, settings, folder, fabric, self._place)
        self.progress = Progress()
        self.log: Log | None = None
        self.scores: dict[str, float] = {}
        self.waited = 0.0
        self.reason = "finished"
        self.stop = False  # save and end the run
        self.enough = False  # end the phase

    @property
    def first(self) -> bool:
        """Whether this process writes."""
        return bool(self.fabric.global_rank == 0)

    def run(self) -> Result:
        """Run what is left of the training."""
        began = time.monotonic()
        saved = self._resume() if self.settings.resume else None
        for phase in self.phases[self.progress.clock.phase :]:
            for name, feed in phase.feeds.items():
                _require_some(phase, name, any(map(feed.accepts, self.records)))
        if self.first:
            self.log = Log(self.folder)
        try:
            with heed_signals(self._ask_to_stop):
                while self.progress.clock.phase < len(self.phases) and not self.stop:
                    self._run_phase(self.phases[self.progress.clock.phase], saved)
                    saved = None
        except UnlabeledError as fault:
            if self.first:
                self.folder.note_failure(fault.fact)
            raise
        finally:
            if self.log is not None:
                self.log.close()
        seconds = time.monotonic() - began
        return Result(
            steps=self.progress.clock.total,
            score=self.scores,
            best=self.progress.best,
            seconds=seconds,
            wait_share=self.waited / max(seconds, 1e-9),
            exit_reason=self.reason,
        )

    def _run_phase(self, phase: Phase, saved: checkpoints.Checkpoint | None) -> None:
        clock = self.progress.clock
        items, plan = self._plan(phase)
        epochs, steps = self._length(phase, plan)
        if saved is None and phase.before is not None:
            phase.before(self.records)
        self.method.train()
        optimisers, schedules = self._optimisers(phase)
        if saved is not None:
            checkpoints.restore_optimisers(saved, optimisers)
        done = clock.epoch * plan.steps_per_epoch + clock.step
        batches = load(
            phase,
            items,
            plan,
            epoch=clock.epoch,
            step=clock.step,
            steps=max(0, steps - done),
            per_scan=self.options.samples_per_scan,
            workers=choose_workers(self.settings, self.fabric),
            pin=self.fabric.device.type == "cuda",
        )
        per_epoch = plan.steps_per_epoch
        last_saved = time.monotonic()
        waited, began = 0.0, time.monotonic()
        name = self.title if len(self.phases) == 1 else f"{self.title}: {phase.name}"
        quiet = self.settings.quiet or not self.first
        with Reporter(name, steps, quiet=quiet, done=done) as reporter:
            while done < steps and not (self.stop or self.enough):
                asked = time.monotonic()
                batch = self._place(next(batches))
                waited += time.monotonic() - asked
                self._set_rates(optimisers, schedules, done, per_epoch, epochs)
                updates = self._step(phase, batch, optimisers, plan)
                done += 1
                clock.total += 1
                clock.epoch, clock.step = divmod(done, per_epoch)
                self.progress.unscored += 1
                if done % self.settings.log_every == 0 or done == steps or clock.step == 0:
                    self._log_step(phase, updates, optimisers, reporter, done, waited, began)
                if clock.step == 0 or done == steps:
                    self._end_epoch(phase, last=done == steps)
                    self.waited += waited
                    waited, began = 0.0, time.monotonic()
                if self._due(last_saved, done):
                    self._check_finite(updates)
                    self._save(optimisers)
                    last_saved = time.monotonic()
        self.waited += waited
        if self.stop and done < steps:
            self._save(optimisers)
            return
        self._end_phase(phase)

    def _step(
        self,
        phase: Phase,
        batch: Any,
        optimisers: Mapping[str, Any],
        plan: Plan,
    ) -> list[Update]:
        """Perform the updates of one batch, in the method's own order."""
        clock = self.progress.clock
        if not self.method.training:  # asked first, as telling every module takes long
            self.method.train()
        place = (phase.name, clock.total, self.fabric.global_rank)
        reseed(self.fabric.device, self.options.seed, "step", *place)
        performed: list[Update] = []
        samples = len(range(plan.rank, next(iter(plan.batches.values())), plan.ranks))
        updates = phase.step(batch)
        while True:
            with (
                self.fabric.autocast()
            ):  # anew for each resumption: a kept context serves stale half-precision weights
                update = next(updates, None)
            if update is None:
                return performed
            optimiser = optimisers[update.of]
            optimiser.zero_grad()
            self.fabric.backward(update.loss)
            average_gradients(optimiser, samples)
            if update.clip is not None:
                held = [p for group in optimiser.param_groups for p in group["params"]]
                torch.nn.utils.clip_grad_norm_(held, update.clip)
            optimiser.step()
            shows = {name: value.detach() for name, value in update.shows.items()}
            performed.append(Update(update.loss.detach(), update.of, shows))

    def _plan(self, phase: Phase) -> tuple[dict[str, tuple[Any, ...]], Plan]:
        items = items_of(phase, self.records)
        for name, chosen in items.items():
            _require_some(phase, name, bool(chosen))
        plan = make_plan(
            phase,
            items,
            seed=self.options.seed,
            per_scan=self.options.samples_per_scan,
            rank=self.fabric.global_rank,
            ranks=self.fabric.world_size,
        )
        if min(plan.batches.values()) < plan.ranks:
            raise RunError(
                f"a batch of {min(plan.batches.values())} cannot be shared by {plan.ranks} devices",
                f"Give --batch-size {plan.ranks} or more.",
            )
        return items, plan

    def _length(self, phase: Phase, plan: Plan) -> tuple[float, int]:
        """Epochs that the schedule runs over, and steps, of one phase."""
        share = phase.share / sum(each.share for each in self.phases)
        steps = max(1, round(self.options.epochs * share)) * plan.steps_per_epoch
        if self.options.steps is not None:
            first = sum(each.share for each in self.phases[: self.progress.clock.phase])
            whole = sum(each.share for each in self.phases)
            ends = [round(self.options.steps * x / whole) for x in (first, first + phase.share)]
            steps = min(steps, max(1, ends[1] - ends[0]))
        return steps / plan.steps_per_epoch, steps

    def _optimisers(self, phase: Phase) -> tuple[dict[str, Any], dict[str, Schedule]]:
        optimisers, schedules = {}, {}
        for name, modules in phase.trains.items():
            modules = list(modules)
            if not parameters(modules):
                raise RuntimeError(f"phase {phase.name} trains nothing under {name}")
            made, schedules[name] = self.method.optimiser(name, modules)
            for group in made.param_groups:
                group["first_lr"] = group["lr"]
            optimisers[name] = self.fabric.setup_optimizers(fuse(made))
        return optimisers, schedules

    def _set_rates(
        self,
        optimisers: Mapping[str, Any],
        schedules: Mapping[str, Schedule],
        done: int,
        per_epoch: int,
        epochs: float,
    ) -> None:
        for name, optimiser in optimisers.items():
            schedule = schedules[name]
            if isinstance(schedule, BySteps):
                factor = schedule.factor(done)
            else:
                factor = schedule(done / per_epoch, epochs)
            for group in optimiser.param_groups:
                group["lr"] = group["first_lr"] * factor

    def _place(self, batch: Any) -> Any:
        batch = self.fabric.to_device(batch)
        if not self.arithmetic.channels_last:
            return batch
        layout = torch.channels_last_3d if self.dims == 3 else torch.channels_last

        def place(leaf: Any) -> Any:
            fits = isinstance(leaf, Tensor) and leaf.ndim == self.dims + 2
            return leaf.contiguous(memory_format=layout) if fits else leaf

        return tree_map(place, batch)

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
        clock = self.progress.clock
        self._check_finite(updates)
        values: dict[str, float] = {}
        for update in updates:
            values["loss" if update.of == "main" else f"loss {update.of}"] = float(update.loss)
            values.update({name: float(value) for name, value in update.shows.items()})
        values = average(self.fabric, values)
        reporter.show(done, **{name: values[name] for name in list(values)[:3]})
        if self.log is not None:
            rates = {
                "lr" if name == "main" else f"lr {name}": float(optimiser.param_groups[0]["lr"])
                for name, optimiser in optimisers.items()
            }
            batch = sum(feed.batch_size for feed in phase.feeds.values())
            self.log.write(
                phase=phase.name,
                epoch=clock.epoch,
                step=clock.step,
                total=clock.total,
                **values,
                **rates,
                scans_per_second=reporter.rate * batch,
                wait_share=waited / max(time.monotonic() - began, 1e-9),
            )

    def _end_epoch(self, phase: Phase, *, last: bool) -> None:
        """Score, keep the best weights, and end the phase when patience is over."""
        if not self.watcher.due(self.progress, last=last):
            return
        self.scores = self.watcher.score(phase, self.progress)
        if self.watcher.improves(phase, self.scores, self.progress):
            if self.first and self.method.keeps == "best":
                self._write(self.folder.best, {})
        elif self.watcher.impatient(self.progress):
            self.enough, self.reason = True, "patience"
        if self.log is not None:
            at = self.progress.clock
            self.log.write(phase=phase.name, epoch=at.epoch, step=at.step, held_out=self.scores)

    def _end_phase(self, phase: Phase) -> None:
        """Put the phase's best weights back where the method keeps them, and go on to the next; its best starts anew."""
        clock = self.progress.clock
        if self.method.keeps == "best" and self.progress.best is not None:
            self.fabric.barrier()
            checkpoints.restore_method(checkpoints.read_checkpoint(self.folder.best), self.method)
        if phase.after is not None:
            phase.after(self.records)
        self.progress.clock = Clock(clock.phase + 1, 0, 0, clock.total)
        self.progress.epochs_since_best, self.enough = 0, False
        if clock.phase + 1 < len(self.phases):
            self.progress.best = None
        self._save({})

    def _ask_to_stop(self) -> None:
        self.stop, self.reason = True, "interrupted"

    def _agree(self, due: bool) -> bool:
        """Let all processes stop or save at the same step, when any one wants to."""
        granted = agree(self.fabric, {"stop": self.stop, "due": due})
        if granted["stop"]:
            self._ask_to_stop()
        return granted["due"]

    def _due(self, last_saved: float, done: int) -> bool:
        every = self.settings.checkpoint_steps
        if every is not None:
            return self._agree(done % every == 0)
        return self._agree(time.monotonic() - last_saved > 60 * self.settings.checkpoint_minutes)

    def _save(self, optimisers: Mapping[str, Any]) -> None:
        if self.first:
            self._write(self.folder.last, optimisers)
        self.fabric.barrier()

    def _write(self, path: Path, optimisers: Mapping[str, Any]) -> None:
        bare = {name: getattr(each, "optimizer", each) for name, each in optimisers.items()}
        state = {
            "progress": asdict(self.progress),
            "log_length": self.folder.log_length(),
            "scores": self.scores,
        }
        checkpoints.write_checkpoint(path, self.method, bare, state)

    def _resume(self) -> checkpoints.Checkpoint | None:
        if not self.folder.last.exists():
            return None  # interrupted before the first checkpoint: start anew
        saved = checkpoints.read_checkpoint(self.folder.last)
        checkpoints.restore_method(saved, self.method)
        kept = dict(saved.state["progress"])
        self.progress = Progress(**{**kept, "clock": Clock(**kept["clock"])})
        self.scores = saved.state["scores"]
        if self.first:
            self.folder.cut_log(saved.state["log_length"])
        return saved if saved.state["optimisers"] else None

    def _check_finite(self, updates: Sequence[Update]) -> None:
        for update in updates:
            if not math.isfinite(float(update.loss)):
                raise RunError(
                    f"the loss of {update.of} became {float(update.loss)} at step "
                    f"{self.progress.clock.total}",
                    "Give a lower --lr or --precision 32; the last checkpoint is from before.",
                )


def _require_some(phase: Phase, stream: str, some: bool) -> None:
    """Refuse a stream that nothing belongs to: before the first phase, lest the phases before it are for nothing."""
    if not some:
        raise RunError(
            f"phase {phase.name} has no training scans for its stream {stream}",
            "Add scans; or, where all of this kind are held out, say in a manifest's column `split` who trains.  "
            "`unlabeled check` says what is usable.",
        )
