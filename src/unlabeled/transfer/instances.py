"""Instances: a network tells interior, border and background apart; connected interiors are the objects.

As in VoidSeg (Prakash et al., ISBI 2020), whose four modes say what a pretrained denoiser is for: the start of the
network, the maker of the images that it sees, both, or neither.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor, nn

from unlabeled.data.sampling import draw_labelled_start, patch_size
from unlabeled.data.store import Record
from unlabeled.errors import OptionError, RunError
from unlabeled.losses.segmentation import weighted_cross_entropy
from unlabeled.methods._base import Monitor, Update
from unlabeled.nn.decoders import build_decoder, fit
from unlabeled.nn.encoders import Encoder, build_encoder
from unlabeled.nn.weights import load_weights
from unlabeled.transfer.inference import segment_logits
from unlabeled.transfer.matching import match_objects
from unlabeled.transfer.task import FinetuneOptions, Given, Patch, Task
from unlabeled.transfer.tasks import load_decoder, unit_range
from unlabeled.transfer.windows import sliding_window
from unlabeled.transforms.instances import INTERIOR, number_objects, three_classes
from unlabeled.transforms.turning import SquareTurn, turn_square

#: Thresholds that are tried (published code).
THRESHOLDS = tuple(float(level) for level in np.linspace(0.1, 1, 19).round(2))
#: Methods whose decoder gives denoised images.
DENOISERS = ("voidseg",)
#: Training scans, evenly spread, that mean and deviation of denoised scans are measured on (ours).
MEASURED = 100


class Denoiser(nn.Module):
    """A pretrained denoiser that stands still, and what makes its images standardised again.

    Parameters
    ----------
    encoder
        Of the same kind as the denoiser's.

    Attributes
    ----------
    centre, width
        Mean and deviation of denoised scans, one a channel.
    """

    centre: Tensor
    width: Tensor

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        channels = encoder.in_channels
        self.encoder = build_encoder(encoder.name, dims=encoder.dims, in_channels=channels)
        self.decoder = build_decoder(self.encoder, out_channels=channels)
        self.register_buffer("centre", torch.zeros(channels))
        self.register_buffer("width", torch.ones(channels))
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode."""
        return super().train(False)

    def forward(self, image: Tensor) -> Tensor:
        """Denoise ``batch channel *space`` and standardise."""
        shape = (1, -1, *[1] * (image.ndim - 2))
        with torch.no_grad():
            denoised: Tensor = self.decoder(self.encoder(image), image.shape[2:]).float()
            return (denoised - self.centre.view(shape)) / self.width.view(shape)

    def measure(self, records: Sequence[Record], size: Sequence[int]) -> None:
        """Take mean and deviation of the denoised scans."""
        chosen = records[:: -(-len(records) // MEASURED)]
        values = [sliding_window(record, self, size).flatten(1).double() for record in chosen]
        voxels = torch.cat(values, dim=1)
        self.centre.copy_(voxels.mean(1))
        self.width.copy_(voxels.std(1, correction=0).clamp(min=1e-6))


class Instances(Task):
    """A decoder tells three classes apart; objects are what is connected where the interior is likely.

    Parameters
    ----------
    options, encoder, quiet
        As in `Task`.
    denoiser
        What the scans go through first.
    threshold
        Probability that the interior of an object exceeds.
    """

    kind = "instances"
    column = "mask"
    monitor = Monitor("loss", "lower")

    def __init__(
        self,
        options: FinetuneOptions,
        encoder: Encoder,
        *,
        denoiser: Denoiser | None = None,
        threshold: float = 0.5,
        quiet: Collection[str] = (),
    ) -> None:
        super().__init__(options, encoder, quiet=quiet)
        self.decoder = build_decoder(encoder, out_channels=3)
        self.denoiser = denoiser
        self.threshold = threshold
        self.turn = SquareTurn()

    @classmethod
    def build(cls, given: Given) -> Self:
        """Build the networks that the mode asks for; the denoiser's weights are loaded, and its images measured."""
        mode = _mode(given)
        denoiser = None
        if mode.endswith("sequential"):
            denoiser = _denoiser(given, mode)
            denoiser.measure(given.train, given.options.patch_size)
        made = cls(given.options, given.encoder, denoiser=denoiser, quiet=given.quiet)
        made.starts_pretrained = mode.startswith("finetune")
        return made

    @classmethod
    def restore(
        cls, described: Mapping[str, Any], options: FinetuneOptions, encoder: Encoder
    ) -> Self:
        """Build the task with its threshold, and a denoiser where it had one."""
        denoiser = Denoiser(encoder) if described["denoises"] else None
        return cls(options, encoder, denoiser=denoiser, threshold=float(described["threshold"]))

    def load(self, given: Given, notes: list[str]) -> set[str]:
        """Load the decoder but for its last layer."""
        return load_decoder(self.decoder, given, notes)

    def forward(self, image: Tensor) -> Tensor:
        """Compute ``batch 3 *space`` from ``batch channel *space``."""
        seen = image if self.denoiser is None else self.denoiser(image)
        logits: Tensor = fit(self.decoder(self.encode(seen)), image.shape[2:])
        return logits

    def views(self, record: Record, rng: Generator) -> Patch:
        """Cut a labelled patch and lay it in one of the eight ways of a square; nothing is interpolated."""
        size = tuple(self.options.patch_size)
        whole = patch_size(record, size)
        start = draw_labelled_start(record, whole, rng, self.options.foreground)
        image = record.patch(start, whole).reshape(record.channels, *size)
        objects = record.mask_patch(start, whole).reshape(1, *size)
        if self.options.augment and record.key not in self.quiet:
            way = self.turn.draw(size, rng)
            image, objects = turn_square(image, way), turn_square(objects, way)
        return Patch(image, torch.from_numpy(three_classes(objects[0].numpy())))

    def loss(self, logits: Tensor, truth: Tensor) -> Tensor:
        """Weigh the border more than the rest."""
        return weighted_cross_entropy(logits, truth, (1.0, 1.0, self.options.border_weight))

    def step(self, batch: Patch) -> Iterator[Update]:
        """Learn from the labels."""
        yield Update(self.loss(self(batch.image), batch.truth), clip=self.options.clip)

    def score(self, batch: Patch) -> dict[str, Tensor]:
        """Measure the loss and the share of voxels told right, beside that of saying background."""
        logits = self(batch.image)
        return {
            "loss": self.loss(logits, batch.truth),
            "accuracy": (logits.argmax(1) == batch.truth).float().mean(),
            "accuracy chance": (batch.truth == 0).float().mean(),
        }

    def preview(self, batch: Patch) -> dict[str, Tensor]:
        """Show image, what the network sees of it, truth (border white), prediction and probability of the interior."""
        seen = batch.image if self.denoiser is None else self.denoiser(batch.image)
        logits = self(batch.image).float()
        denoised = {} if self.denoiser is None else {"denoised": unit_range(seen)}
        return {
            "image": unit_range(batch.image),
            **denoised,
            "truth": batch.truth[:, None].float() / 2,
            "predicted": logits.argmax(1)[:, None].float() / 2,
            "interior": logits.softmax(1)[:, INTERIOR : INTERIOR + 1],
        }

    def calibrate(self, records: Sequence[Record]) -> None:
        """Choose the threshold by the mean average precision on validation scans; of equals, the lowest."""
        if not records:
            return
        precisions = np.zeros(len(THRESHOLDS))
        for record in records:
            likely = segment_logits(self, record).softmax(0)[INTERIOR].numpy()
            truth = record.mask_patch((0,) * record.dims, record.space).numpy()
            for place, level in enumerate(THRESHOLDS):
                precisions[place] += match_objects(number_objects(likely > level), truth).precision
        self.threshold = THRESHOLDS[int(precisions.argmax())]

    def objects(self, likely: NDArray[np.float32]) -> NDArray[np.int32]:
        """Number the objects that probabilities ``class *space`` show."""
        return number_objects(likely[INTERIOR] > self.threshold)

    def describe(self) -> dict[str, Any]:
        """Give the threshold, and whether scans are denoised first."""
        denoises = self.denoiser is not None
        return {"kind": self.kind, "threshold": self.threshold, "denoises": denoises}


def _mode(given: Given) -> str:
    """Tell the mode, and refuse one that needs weights where there are none."""
    asked = given.options.mode
    if asked is None:
        return "finetune" if given.tensors else "baseline"
    if asked != "baseline" and not given.tensors:
        raise OptionError(
            f"--mode {asked} uses a pretrained network, and --init is scratch",
            "Give --init RUN of `unlabeled pretrain voidseg`, or --mode baseline.",
        )
    return asked


def _denoiser(given: Given, mode: str) -> Denoiser:
    """Build the denoiser that a pretraining carried, whole."""
    slug = given.metadata.get("slug")
    if slug not in DENOISERS:
        raise RunError(
            f"--mode {mode} denoises with what --init holds, and that is {slug or 'of no method known here'}",
            f"Give a run of `unlabeled pretrain {DENOISERS[0]}`, or --mode finetune.",
        )
    denoiser = Denoiser(given.encoder)
    for part in ("encoder", "decoder"):
        held = {n: t for n, t in given.tensors.items() if n.startswith(f"{part}.")}
        report = load_weights(getattr(denoiser, part), held, source="--init", least=0.0)
        if report.missing or report.adapted:
            raise RunError(
                f"--init does not hold the whole denoiser for such scans: {report}",
                "Pretrain on scans with as many channels and axes, or give --mode finetune.",
            )
    return denoiser
