"""Models Genesis: restore a patch from a deformed copy of itself (Zhou et al., MICCAI 2019; MedIA 2021).

A patch y is damaged by a random mix of transforms T: a non-linear intensity curve (appearance), local shuffling
(texture and boundaries), in-painting (local continuity) or out-painting (global layout).  An encoder-decoder f gives
back what was there; the loss is the mean of ``(f(T(y)) - y) ** 2`` over all voxels, damaged or not.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from operator import itemgetter
from typing import ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from unlabeled.data.lung import (
    LOOK_AHEAD,
    MOST_TISSUE,
    TRIES,
    ContentFilter,
    tissue_level,
    tissue_score,
    wants_lung,
)
from unlabeled.data.sampling import draw_start, patch_size
from unlabeled.data.scan import Unit
from unlabeled.data.store import Record
from unlabeled.errors import OptionError
from unlabeled.methods._base import (
    Method,
    Monitor,
    Needs,
    SharedOptions,
    Update,
    parameters,
    patch_for,
)
from unlabeled.nn.decoders import build_decoder
from unlabeled.nn.encoders import Encoder
from unlabeled.nn.schedules import Schedule, halving
from unlabeled.nn.unet import normalise_by
from unlabeled.options import Count, Positive, Probability, Whole
from unlabeled.transforms.intensity import BezierIntensity
from unlabeled.transforms.masking import Paint
from unlabeled.transforms.shuffling import LocalShuffle
from unlabeled.transforms.spatial import RepeatedFlip

OFFICIAL_MARGIN = (100, 100, 30)  # [voxel] (official code)


@dataclass(frozen=True, kw_only=True)
class Options(SharedOptions):
    """Defaults of the official chest CT code (PyTorch) unless another source is named.

    Parameters
    ----------
    patch_size
        Edge lengths of a patch [voxel]; pictures and slices take the first two.
    epochs
        Passes over the scans; `patience` ends the training long before.
    samples_per_scan
        Patches that each scan gives an epoch.
    lr
        Learning rate at the start; 1.0 goes with SGD, the sigmoid and batch normalisation, 0.001 with Adam (ours).
    optimiser
        SGD with momentum 0.9, or Adam.
    halve_every
        Epochs after which the learning rate halves.
    patience
        Scores without improvement after which the training ends.
    p_flip
        Probability of each further flip, at most three; a flip acts on input and target alike.
    p_shuffle, p_intensity, p_paint
        Probabilities of the deformations.
    p_inpaint
        Share of in-painting among paintings; the rest is out-painting.
    shuffle_windows
        Windows of local shuffling.
    content_filter
        Which patches are taken: any, or those with lung (CT alone); auto takes those with lung in official mode
        on CT volumes (ours: the official code knows no other organ).
    margin
        Voxels along each axis that patches keep off the scan's borders; without it 0, in official mode 100, 100, 30
        along axes where the scan is long enough (ours: the official code skips shorter scans).
    fidelity
        Mend the quirks of the official code, or reproduce them.
    """

    patch_size: tuple[Count, ...] = (64, 64, 32)
    epochs: Count = 10_000
    batch_size: Count = 6
    samples_per_scan: Count = 32
    lr: Positive = 1.0
    optimiser: Literal["sgd", "adam"] = "sgd"
    halve_every: Count = 40
    patience: Count = 50
    p_flip: Probability = 0.4
    p_shuffle: Probability = 0.5
    p_intensity: Probability = 0.9
    p_paint: Probability = 0.9
    p_inpaint: Probability = 0.2
    shuffle_windows: Count = 10_000
    content_filter: ContentFilter = "auto"
    margin: tuple[Whole, ...] | None = None
    fidelity: Literal["clean", "official"] = "clean"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.optimiser == "adam" and self.lr > 0.1:
            raise OptionError(
                f"--lr is {self.lr}, with which Adam learns nothing", "Give --lr 0.001 with it."
            )


class Sample(NamedTuple):
    """A patch and its deformed copy, ``*batch channel *space``, both in [0, 1]."""

    deformed: Tensor
    intact: Tensor


class ModelsGenesis(Method):
    """An encoder-decoder sees a deformed patch and must return the intact one."""

    needs: ClassVar[Needs] = Needs(unit=Unit.VOLUME, dims=(2, 3))
    options_class: ClassVar[type[SharedOptions]] = Options
    monitor: ClassVar[Monitor] = Monitor("mse", "lower", chance="variance")
    keeps = "best"
    quirks: ClassVar[Mapping[str, str]] = {
        "flip axes": "official: one of three flips is of the channel axis and does nothing, the last axis of a volume "
        "is never flipped; clean: every axis of space is as likely",
        "batch statistics": "official: the U-Net normalises by the batch at hand in evaluation too, so an output "
        "depends on its companions; clean: by the running statistics",
    }

    options: Options

    def __init__(self, options: Options, encoder: Encoder) -> None:
        super().__init__(options, encoder)
        self.decoder = build_decoder(encoder, out_channels=encoder.in_channels)
        self.patch = patch_for(encoder, options.patch_size)
        encoder.check(self.patch)
        official = options.fidelity == "official"
        normalise_by(self, "batch" if official else "running")
        self.flip = RepeatedFlip(options.p_flip, axes=(None, 0, 1) if official else None)
        self.shuffle = LocalShuffle(options.p_shuffle, options.shuffle_windows)
        self.curve = BezierIntensity(options.p_intensity)
        self.paint = Paint(options.p_paint, options.p_inpaint)

    def views(self, record: Record, rng: Generator) -> Sample:
        """Cut a patch, flip it, and deform a copy in the order of the official code."""
        intact = self.flip(self.crop(record, rng), rng)
        deformed = self.curve(self.shuffle(intact, rng), rng)
        return Sample(self.paint(deformed, rng), intact)

    def crop(self, record: Record, rng: Generator) -> Tensor:
        """Cut a patch ``channel *space``; with the lung filter, the first with lung or the best of so many tries."""
        official = self.options.fidelity == "official"
        lung = wants_lung(record, self.options.content_filter, official=official)
        score, patch = self._try(record, rng, lung)
        for _ in range(TRIES - 1 if lung else 0):
            if score <= MOST_TISSUE:
                break
            score, patch = min((score, patch), self._try(record, rng, lung), key=itemgetter(0))
        return patch

    def restore(self, deformed: Tensor) -> Tensor:
        """Restore patches; every value lies in (0, 1)."""
        restored: Tensor = self.decoder(self.encoder(deformed), deformed.shape[2:])
        return torch.sigmoid(restored.float())

    def step(self, batch: Sample) -> Iterator[Update]:
        """Compare with the intact patch, over all voxels."""
        yield Update(F.mse_loss(self.restore(batch.deformed), batch.intact))

    def optimiser(
        self, name: str, modules: Iterable[nn.Module]
    ) -> tuple[torch.optim.Optimizer, Schedule]:
        """Make SGD with momentum, or Adam; the rate halves every so many epochs."""
        moved, lr = parameters(modules), self.options.lr
        schedule = halving(self.options.halve_every)
        if self.options.optimiser == "adam":
            return torch.optim.Adam(moved, lr=lr), schedule
        return torch.optim.SGD(moved, lr=lr, momentum=0.9), schedule

    def score(self, batch: Sample) -> dict[str, Tensor]:
        """Measure the error, over all voxels and over damaged ones, beside two ways of knowing nothing.

        ``identity`` is the error of returning the input, ``variance`` that of returning the mean intensity.
        """
        deformed, intact = batch
        error = (self.restore(deformed) - intact).square()
        damaged = deformed != intact
        return {
            "mse": error.mean(),
            "mse_damaged": (error * damaged).sum() / damaged.sum().clamp(min=1),
            "identity": F.mse_loss(deformed, intact),
            "variance": intact.var(correction=0),
        }

    def preview(self, batch: Sample) -> dict[str, Tensor]:
        """Show what the network sees, what it makes of it, and what it should."""
        deformed, intact = batch
        return {"deformed": deformed, "restored": self.restore(deformed), "intact": intact}

    def carries(self) -> dict[str, nn.Module]:
        """Carry the encoder to any task and the decoder to segmentation."""
        return {"encoder": self.encoder, "decoder": self.decoder}

    def _try(self, record: Record, rng: Generator, lung: bool) -> tuple[float, Tensor]:
        """Cut any patch, with its `tissue_score` where the lung filter asks for it."""
        size = patch_size(record, self.patch)
        margin = self._margin(record.space, size)
        inner = [edge - 2 * free for edge, free in zip(record.space, margin, strict=True)]
        place = draw_start(inner, size, rng)
        start = [at + free for at, free in zip(place, margin, strict=True)]
        seen = record.patch(start, (*size[:-1], size[-1] + LOOK_AHEAD * lung))
        score = tissue_score(seen, tissue_level(record)) if lung else 0.0
        return score, seen[..., : size[-1]].reshape(len(seen), *self.patch)

    def _margin(self, space: tuple[int, ...], size: tuple[int, ...]) -> list[int]:
        asked = self.options.margin
        if asked is None:
            official = self.options.fidelity == "official" and len(space) == 3
            asked = OFFICIAL_MARGIN if official else (0,) * len(space)
        elif len(asked) < len(space):
            raise OptionError(
                f"--margin has {len(asked)} values, and the scans have {len(space)} axes",
                f"Give --margin {' '.join(map(str, (*asked, 0, 0)[: len(space)]))}.",
            )
        triples = zip(space, size, asked, strict=False)
        return [free if edge - 2 * free >= cut else 0 for edge, cut, free in triples]
