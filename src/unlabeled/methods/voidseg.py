"""VoidSeg: learn to denoise from noisy images alone, then segment with what was learnt (Prakash et al., ISBI 2020).

Noise2Void (Krull et al., CVPR 2019): of a noisy image x a few voxels, m = 1, are replaced by others of their
neighbourhood.  A network f sees that and is asked for the noisy values that were there,
``sum m (f(x~) - x)**2 / sum m``.  Noise that is independent from voxel to voxel cannot be known from the surroundings,
so the best that f can give is the signal.  Its weights, and the images that it denoises, then serve a segmenter.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from torch import Generator, Tensor, nn

from unlabeled.data.intensity import IntensityRule
from unlabeled.data.sampling import draw_start, patch_size
from unlabeled.data.scan import Unit
from unlabeled.data.store import Record
from unlabeled.losses.restoration import masked_error
from unlabeled.methods._base import (
    Feed,
    Method,
    Monitor,
    Needs,
    Phase,
    Product,
    SharedOptions,
    Update,
    parameters,
    patch_for,
)
from unlabeled.nn.decoders import build_decoder
from unlabeled.nn.encoders import Encoder
from unlabeled.nn.schedules import Schedule, halving
from unlabeled.nn.whole_scans import over_tiles
from unlabeled.options import Between, Count, Positive
from unlabeled.transforms.masking import BlindSpots
from unlabeled.transforms.turning import SquareTurn, turn_square

TILE = {2: (1024, 96), 3: (96, 32)}  # edge and margin denoised at once, by axes of space [voxel]


@dataclass(frozen=True, kw_only=True)
class Options(SharedOptions):
    """Defaults of the published notebooks for nuclei (DSB 2018, n2v of November 2019) unless another source is named.

    Parameters
    ----------
    epochs
        Passes over the scans.
    batch_size
        Samples a step, over all devices.
    samples_per_scan
        Patches that each scan gives an epoch (ours: 400 steps of 128 over the 430 images are 119 of each).
    lr
        Learning rate at the start, of Adam.
    halve_every
        Epochs after which the learning rate halves (ours; the published code halves it when the validation loss has
        not fallen for 10 epochs).
    encoder
        Network; care-unet is the published one for DSB 2018, care-unet-3 that for BBBC004.
    patch_size
        Edge lengths of a patch [voxel]; pictures and slices take the first two, the third is ours.
    hidden_percent
        Share of voxels that are hidden [%], one in each box of 100 / so many voxels.
    window_radius
        Reach of the window, to each side, from which a hidden voxel's replacement is drawn [voxel].
    error
        What is minimised at hidden voxels.
    turns
        Whether patches are turned by quarters and flipped.
    test_images
        Whether scans that a manifest keeps for the test are denoised and learnt from as well, without labels.  The paper
        does so; then the test images are no unseen ones, so here it is off unless asked for.
    """

    epochs: Count = 200
    batch_size: Count = 128
    samples_per_scan: Count = 120
    lr: Positive = 4e-4
    halve_every: Count = 50
    encoder: str = "care-unet"
    patch_size: tuple[Count, ...] = (64, 64, 32)
    hidden_percent: Annotated[float, Between(0.01, 50)] = 0.784
    window_radius: Count = 5
    error: Literal["squared", "absolute"] = "squared"
    turns: bool = True
    test_images: bool = False


class Sample(NamedTuple):
    """A patch with blind spots, the patch as it was, and where the spots are; ``*batch channel *space``."""

    blinded: Tensor
    noisy: Tensor
    hidden: Tensor


class VoidSeg(Method):
    """An encoder-decoder says what a voxel's surroundings tell of it."""

    needs: ClassVar[Needs] = Needs(unit=Unit.SLICE, dims=(2, 3))
    options_class: ClassVar[type[SharedOptions]] = Options
    monitor: ClassVar[Monitor] = Monitor("mse", "lower", chance="variance")
    keeps = "best"
    makes: ClassVar[str] = "the denoised image, in the scan's own intensity unit"

    options: Options

    def __init__(self, options: Options, encoder: Encoder) -> None:
        super().__init__(options, encoder)
        self.decoder = build_decoder(encoder, out_channels=encoder.in_channels)
        self.patch = patch_for(encoder, options.patch_size)
        encoder.check(self.patch)
        self.blind = BlindSpots(options.hidden_percent, options.window_radius)
        self.turn = SquareTurn()

    @classmethod
    def intensity(cls, options: SharedOptions) -> IntensityRule:
        """Subtract each scan's mean and divide by its deviation; clipping would change the noise."""
        return IntensityRule(kind="standard")

    @classmethod
    def learns_from(cls, options: Options) -> tuple[str, ...]:
        """Learn from the test scans as well where the person says so."""
        return ("train", "test") if options.test_images else ("train",)

    def notes(self) -> tuple[str, ...]:
        """Say what makes denoised images, or figures on test images, mean less than they seem to."""
        said = {
            "test scans are learnt from as well, without labels (--test-images): they are no unseen ones any more": (
                self.options.test_images
            ),
            "--spacing resamples, after which neighbours share their noise and a blind spot does not hide it: it stays in "
            "the denoised images": self.options.spacing is not None,
        }
        return tuple(note for note, holds in said.items() if holds)

    def phases(self) -> tuple[Phase, ...]:
        """Train both parts in one stage; a batch's patches are made together."""
        many, unit = self.options.batch_size, self.needs.unit
        feed = Feed(self.views, many, unit, together=self.together)
        return (Phase("pretrain", self.step, {"main": [self]}, {"scans": feed}),)

    def views(self, record: Record, rng: Generator) -> Sample:
        """Cut a patch, turn it, and blind it where it lies in the scan: what is padded hides nothing."""
        patch, box, way = self.cut(record, rng)
        noisy = turn_square(patch, way)
        blinded, hidden = noisy.clone(), torch.zeros_like(noisy, dtype=torch.bool)
        region = (slice(None), *box)
        blinded[region], hidden[region] = self.blind(noisy[region], rng)
        return Sample(blinded, noisy, hidden)

    def together(self, records: Sequence[Record], rngs: Sequence[Generator]) -> Sample:
        """Make the samples of `views` for a batch: all patches are turned and blinded in one call."""
        channels = records[0].channels
        patches = np.empty((len(records), channels, *self.patch), np.float32)
        boxes, ways, seeds = [], [], []
        for record, rng, patch in zip(records, rngs, patches, strict=True):
            read, box, way = self.cut(record, rng)
            patch[...] = read.numpy()
            boxes.append(box)
            ways.append(way)
            seeds.append(self.blind.seeds(channels, rng))
        noisy, (blinded, hidden) = self.blind.turned(patches, ways, boxes, seeds)
        return Sample(blinded, noisy, hidden)

    def cut(self, record: Record, rng: Generator) -> tuple[Tensor, tuple[slice, ...], int]:
        """Cut a patch ``channel *space``; say how it is turned, and where the scan then lies in it."""
        size = patch_size(record, self.patch)
        start = draw_start(record.space, size, rng)
        way = self.turn.draw(self.patch, rng) if self.options.turns else 0
        patch = record.patch(start, size).reshape(record.channels, *self.patch)
        whole = tuple(slice(0, edge) for edge in self.patch)
        return patch, whole if min(start) >= 0 else self.region(start, record.space, way), way

    def region(self, start: Sequence[int], space: Sequence[int], way: int) -> tuple[slice, ...]:
        """Say where a scan smaller than the patch lies in it, once it is turned."""
        inside = torch.zeros(1, *self.patch, dtype=torch.bool)
        lying = zip(start, space, self.patch, strict=False)
        inside[0][tuple(slice(max(0, -a), min(edge, n - a)) for a, n, edge in lying)] = True
        first, last = turn_square(inside, way)[0].nonzero().aminmax(dim=0)
        return tuple(slice(int(a), int(b) + 1) for a, b in zip(first, last, strict=True))

    def denoise(self, image: Tensor) -> Tensor:
        """Say what the surroundings tell of every voxel, ``batch channel *space``."""
        denoised: Tensor = self.decoder(self.encoder(image), image.shape[2:])
        return denoised.float()

    def step(self, batch: Sample) -> Iterator[Update]:
        """Compare with the noisy values, at hidden voxels alone."""
        power: Literal[1, 2] = 2 if self.options.error == "squared" else 1
        yield Update(masked_error(self.denoise(batch.blinded), batch.noisy, batch.hidden, power))

    def optimiser(
        self, name: str, modules: Iterable[nn.Module]
    ) -> tuple[torch.optim.Optimizer, Schedule]:
        """Make Adam; the rate halves every so many epochs."""
        adam = torch.optim.Adam(parameters(modules), lr=self.options.lr)
        return adam, halving(self.options.halve_every)

    def score(self, batch: Sample) -> dict[str, Tensor]:
        """Measure the error at hidden voxels, beside two ways of knowing nothing.

        ``replacement`` is the error of returning what stands there instead, ``variance`` that of returning the mean of
        the hidden values.  What cannot be undercut is the variance of the noise, in units of the scan's.
        """
        blinded, noisy, hidden = batch
        values = noisy[hidden].float()
        return {
            "mse": masked_error(self.denoise(blinded), noisy, hidden),
            "replacement": masked_error(blinded, noisy, hidden),
            "variance": values.var(correction=0) if len(values) else values.new_zeros(()),
        }

    def preview(self, batch: Sample) -> dict[str, Tensor]:
        """Show the patch, its blind spots, the denoised patch, and what was taken away (grey: nothing)."""
        noisy, denoised = batch.noisy.float(), self.denoise(batch.noisy)
        shape = (-1, *[1] * (noisy.ndim - 1))
        ends = torch.tensor([0.005, 0.995], device=noisy.device)
        low, high = noisy.flatten(1).quantile(ends, dim=1).view(2, *noisy.shape[:1], *shape[1:])
        reach = (high - low).clamp(min=1e-6)
        return {
            "noisy": ((noisy - low) / reach).clamp(0, 1),
            "hidden": batch.hidden.float(),
            "denoised": ((denoised - low) / reach).clamp(0, 1),
            "removed": (0.5 + (noisy - denoised) / reach).clamp(0, 1),
        }

    def product(self, record: Record) -> Product:
        """Denoise a whole scan, nothing hidden, tile by tile; a flat network takes a volume slice by slice."""
        device, dims = next(self.parameters()).device, self.encoder.dims
        edge, margin = TILE[dims]
        denoised = over_tiles(self.denoise, record, dims, edge=edge, margin=margin, device=device)
        rules = zip(record.rescalings, denoised, strict=True)
        return Product(images={"denoised": torch.stack([rule.undo(one) for rule, one in rules])})

    def carries(self) -> dict[str, nn.Module]:
        """Carry encoder and decoder; a segmenter replaces the last convolution alone."""
        return {"encoder": self.encoder, "decoder": self.decoder}
