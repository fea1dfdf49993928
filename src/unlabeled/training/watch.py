"""Watching the pretext task: scores and previews on fixed held-out samples, the best weights, patience."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from lightning_fabric import Fabric

from unlabeled.data.store import Record
from unlabeled.methods._base import Method, Phase
from unlabeled.training.checkpoint import write_atomically
from unlabeled.training.loader import held_out_batch, items_of
from unlabeled.training.log import RunFolder
from unlabeled.training.previews import panel
from unlabeled.training.settings import Settings
from unlabeled.training.state import Progress


class Watcher:
    """Scores a method between epochs.

    Parameters
    ----------
    method
        Scored in evaluation mode, without gradients.
    held_out
        Records of subjects that are not trained on; none means no scores.
    place
        Moves a batch to the device.
    """

    def __init__(
        self,
        method: Method,
        held_out: Sequence[Record],
        settings: Settings,
        folder: RunFolder,
        fabric: Fabric,
        place: Callable[[Any], Any],
    ) -> None:
        self.method, self.held_out, self.settings = method, held_out, settings
        self.folder, self.fabric, self.place = folder, fabric, place

    def due(self, progress: Progress, *, last: bool) -> bool:
        """Say whether an epoch's end is worth a score: the last one, or enough steps since the one before."""
        return bool(self.held_out) and (last or progress.unscored >= self.settings.score_every)

    def score(self, phase: Phase, progress: Progress) -> dict[str, float]:
        """Score the same held-out samples as ever, and draw a preview of the first batch."""
        items = items_of(phase, self.held_out)
        progress.unscored = 0
        lacking = any(feed.scored and not items[name] for name, feed in phase.feeds.items())
        if lacking or not any(items.values()) or not self.settings.held_out_batches:
            return {}
        sums: dict[str, float] = {}
        self.method.eval()
        with torch.no_grad(), self.fabric.autocast():
            for number in range(self.settings.held_out_batches):
                batch = self._batch(phase, items, number)
                if number == 0 and self.fabric.global_rank == 0:
                    self._preview(phase, batch, progress)
                for name, value in (phase.score or self.method.score)(batch).items():
                    sums[name] = sums.get(name, 0.0) + float(value)
        self.method.train()
        return {name: value / self.settings.held_out_batches for name, value in sums.items()}

    def improves(self, phase: Phase, scores: Mapping[str, float], progress: Progress) -> bool:
        """Compare the monitored score with the phase's best so far, and remember it."""
        monitor = phase.monitor or self.method.monitor
        value, best = scores.get(monitor.name, math.nan), progress.best
        if not math.isfinite(value):
            return False
        if best is None or (value < best if monitor.better == "lower" else value > best):
            progress.best, progress.epochs_since_best = value, 0
            return True
        progress.epochs_since_best += 1
        return False

    def impatient(self, progress: Progress) -> bool:
        """Say whether the method's patience, counted in scores, is over."""
        patience = getattr(self.method.options, "patience", None)
        return patience is not None and progress.epochs_since_best >= patience

    def _batch(self, phase: Phase, items: Mapping[str, Sequence[Any]], number: int) -> Any:
        seed = self.method.options.seed
        return self.place(held_out_batch(phase, items, seed=seed, number=number))

    def _preview(self, phase: Phase, batch: Any, progress: Progress) -> None:
        pictures = (phase.preview or self.method.preview)(batch)
        if pictures:
            clock = progress.clock
            name = f"{clock.phase}-{phase.name}-step{clock.total:06d}.png"
            write_atomically(self.folder.previews / name, panel(pictures))
