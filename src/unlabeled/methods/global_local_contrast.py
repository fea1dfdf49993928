"""Contrast of slices in their volumes and of regions in their slices (Chaitanya et al., NeurIPS 2020).

Volumes of one body part are roughly aligned, so each is cut into S partitions along its axis.  Stage 1 (global) trains
the encoder e and a projector g1: views of a slice are drawn together (G^D-), in G^D slices of the same partition of two
volumes as well; slices of other partitions are the only negatives.  Stage 2 (local) freezes e and trains the first
blocks of the decoder and a projector g2: one place of two intensity versions of a slice is drawn together, its
neighbours are pushed away (L^R); in L^D the same place in other volumes' slices of the partition is a positive too.
Stage 3 is `unlabeled finetune segment`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from unlabeled.data.intensity import IntensityRule
from unlabeled.data.partitions import (
    WholeVolumes,
    draw_slices,
    partition_edges,
    read_scaled_slice,
    read_slice,
)
from unlabeled.data.scan import Unit
from unlabeled.data.store import Record
from unlabeled.errors import OptionError
from unlabeled.losses.partition_contrast import GRID, PLACES, global_contrast, local_contrast
from unlabeled.methods._base import (
    Feed,
    Method,
    Monitor,
    Needs,
    Phase,
    SharedOptions,
    Update,
    parameters,
)
from unlabeled.nn.decoders import build_first_blocks
from unlabeled.nn.encoders import Encoder
from unlabeled.nn.gathering import gather_rows
from unlabeled.nn.regions import RegionProjector, map_size, require_room
from unlabeled.nn.schedules import Schedule, constant
from unlabeled.options import Between, Count, NonNegative, Positive, Probability
from unlabeled.transforms.brightness import BrightnessContrast
from unlabeled.transforms.overlay import upright
from unlabeled.transforms.resizing import CropResize

HIDDEN, EMBEDDING = 1024, 128  # widths of the projectors (official code)
PERCENTILES = (1.0, 99.0)  # of a volume, become 0 and 1 (official code)
FIRST, LAST = 10 / 192, 69 / 192  # where a crop may start, over the edge (official code)


@dataclass(frozen=True, kw_only=True)
class Options(SharedOptions):
    """Defaults of the official code unless another source is named.

    Parameters
    ----------
    patch_size
        Edge lengths that slices are cropped or padded to, around their middle [voxel].
    epochs
        Passes over the volumes; `steps` ends the training long before.
    steps
        Optimiser rounds of both stages together, half for each.
    batch_size
        Volumes a step, each with one slice a partition; G^D takes twice as many.
    local_batch_size
        Slices a step of the second stage with L^R; with L^D it takes `batch_size` volumes.
    encoder
        Network; unet-6 is the published one.
    partitions
        Parts S that a volume is cut into.
    global_loss
        Which slices of other volumes are positives: none (gd-minus), or those of the same partition (gd).
    local_loss
        Which places of other volumes are positives: none (lr), or the same place in slices of the same partition
        (ld).
    decoder_blocks
        Blocks of the decoder that the second stage trains, from the coarsest map on.
    positions
        Places of a feature map that are compared.
    temperature
        Divides the cosines.
    crop
        Edges of the crop that a view enlarges, over those of the slice.
    brightness, contrast
        Largest change of brightness [share of the intensity range], and of contrast around 1.
    fidelity
        Mend the quirks of the official code, or reproduce them.
    """

    patch_size: tuple[Count, ...] = (192, 192)
    epochs: Count = 20_002
    steps: Count | None = 20_002
    batch_size: Count = 3
    local_batch_size: Count = 10
    encoder: str = "unet-6"
    partitions: Annotated[int, Between(2)] = 4
    global_loss: Literal["gd", "gd-minus"] = "gd"
    local_loss: Literal["lr", "ld"] = "lr"
    decoder_blocks: Count = 3
    positions: Annotated[int, Between(2, len(PLACES))] = len(PLACES)
    temperature: Positive = 0.1
    crop: Probability = 100 / 192
    brightness: NonNegative = 0.3
    contrast: Probability = 0.3
    fidelity: Literal["clean", "official"] = "clean"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.fidelity == "official" and self.global_loss == "gd" and self.batch_size < 2:
            raise OptionError(
                "--batch-size is 1, and the official G^D batch leaves its last pair of volumes empty",
                "Give --batch-size 2 or more, or --fidelity clean.",
            )


class GlobalSample(NamedTuple):
    """A slice of every partition of a volume, cropped copies, and how each copy's intensities change."""

    slices: Tensor  # *batch partition channel *space
    copies: Tensor  # *batch copy partition channel *space
    changes: Tensor  # *batch copy partition 2


class LocalSample(NamedTuple):
    """Slices, and how intensities change in their two versions."""

    slices: Tensor  # *batch partition channel *space
    changes: Tensor  # *batch version partition 2


class GlobalLocalContrast(Method):
    """An encoder learns where slices lie, then the first blocks of a decoder where regions lie."""

    needs: ClassVar[Needs] = Needs(unit=Unit.SLICE, dims=(2,), volumes=True)
    options_class: ClassVar[type[SharedOptions]] = Options
    monitor: ClassVar[Monitor] = Monitor("partition", "higher", chance="partition chance")
    quirks: ClassVar[Mapping[str, str]] = {
        "zero tail": "official: the last pair of volumes of a G^D batch is all zero and counts like any other; clean: "
        "every volume is there",
        "lost slices": "official: partitions have one length, rounded down, so the last slices of a volume are never "
        "drawn; clean: every slice belongs to a partition",
        "own partner": "official: a G^D batch is two independent draws, so a volume's partner may be itself; clean: a "
        "batch holds a volume once, as long as there are enough",
        "shared intensities": "official: one change of brightness and contrast for all copies of a batch; clean: one "
        "for each slice",
        "unclipped intensities": "official: percentiles of the whole volume, unclipped, which fine-tuning does not "
        "see; clean: of the foreground, clipped, as in fine-tuning",
        "moving statistics": "official: batch normalisation of the frozen encoder uses the batch at hand and goes on "
        "averaging; clean: it uses the running statistics of the first stage, which stand still",
    }

    options: Options

    def __init__(self, options: Options, encoder: Encoder) -> None:
        super().__init__(options, encoder)
        self.official = options.fidelity == "official"
        self.across = options.global_loss == "gd"
        self.patch = options.patch_size[:2]
        encoder.check(self.patch)
        self.crop = CropResize(options.crop, FIRST, LAST)
        self.recolour = BrightnessContrast(options.brightness, options.contrast)
        coarsest = map_size(self.patch, encoder.strides[-1])
        self.projector = nn.Sequential(  # g1
            nn.Flatten(),
            nn.Linear(encoder.channels[-1] * math.prod(coarsest), HIDDEN, bias=False),
            nn.ReLU(inplace=True),
            nn.Linear(HIDDEN, EMBEDDING, bias=False),
        )
        self.decoder = build_first_blocks(encoder, options.decoder_blocks)
        level = -options.decoder_blocks - 1
        require_room(self.patch, encoder.strides[level], GRID)
        self.region_projector = RegionProjector(encoder.channels[level], EMBEDDING, GRID)  # g2

    @classmethod
    def intensity(cls, options: SharedOptions) -> IntensityRule:
        """Scale the 1st to the 99th percentile of the foreground to [0, 1]; CT by its window (ours)."""
        return IntensityRule(percentiles=PERCENTILES)

    @classmethod
    def preparation(cls, options: SharedOptions) -> WholeVolumes:
        """Leave out scans with fewer slices than partitions; the official mode keeps its own percentiles."""
        if not isinstance(options, Options):
            raise TypeError(f"options of {type(options).__module__}")
        official = options.fidelity == "official"
        return WholeVolumes(options.partitions, PERCENTILES if official else None)

    def phases(self) -> tuple[Phase, ...]:
        """First the encoder, then the first blocks of the decoder."""
        own, unit = self.options, self.needs.unit
        feeds = {"volumes": Feed(self.views, own.batch_size * (2 if self.across else 1), unit)}
        if self.official and self.across:
            draw = Feed(self.views, own.batch_size, unit)
            feeds = {"first": draw, "second": draw}
        many = own.batch_size if own.local_loss == "ld" else own.local_batch_size
        return (
            Phase("global", self.step, {"main": [self.encoder, self.projector]}, feeds),
            Phase(
                "local",
                self.local_step,
                {"main": [self.decoder, self.region_projector]},
                {"slices": Feed(self.local_views, many, unit)},
                score=self.local_score,
                preview=self.local_preview,
                monitor=Monitor("loss", "lower", chance="loss chance"),
            ),
        )

    def views(self, record: Record, rng: Generator) -> GlobalSample:
        """Draw a slice of every partition, and crop copies of it: one for G^D, two for G^D-."""
        slices = self.partition_slices(record, rng)
        copies = [
            torch.stack([self.crop(each, rng) for each in slices])
            for _ in range(1 if self.across else 2)
        ]
        changes = self.recolour.draw(len(copies) * len(slices), rng)
        return GlobalSample(slices, torch.stack(copies), changes.view(len(copies), -1, 2))

    def local_views(self, record: Record, rng: Generator) -> LocalSample:
        """Draw any slice for L^R, one of every partition for L^D; versions differ in intensity alone."""
        if self.options.local_loss == "ld":
            slices = self.partition_slices(record, rng)
        else:
            slices = self.read(record, *draw_slices((0, record.space[2]), rng))[None]
        return LocalSample(slices, self.recolour.draw(2 * len(slices), rng).view(2, -1, 2))

    def partition_slices(self, record: Record, rng: Generator) -> Tensor:
        """Draw a slice of every partition: ``partition channel *space``."""
        edges = partition_edges(record.space[2], self.options.partitions, whole=not self.official)
        return torch.stack([self.read(record, place) for place in draw_slices(edges, rng)])

    def read(self, record: Record, place: int) -> Tensor:
        """Read one axial slice, cropped or padded around its middle: ``channel *space``."""
        return (read_scaled_slice if self.official else read_slice)(record, place, self.patch)

    def step(self, batch: GlobalSample | dict[str, GlobalSample]) -> Iterator[Update]:
        """Stage 1: contrast slices."""
        if isinstance(batch, dict):  # two draws: behind each volume its partner
            pairs = zip(batch["first"], batch["second"], strict=True)
            batch = GlobalSample(*(torch.stack(pair, 1).flatten(0, 1) for pair in pairs))
        images = self.recoloured(batch)
        if self.official and self.across:
            images = torch.cat([images[:-2], torch.zeros_like(images[-2:])])
        yield Update(self.global_loss(self.embed(images)))

    def recoloured(self, batch: GlobalSample) -> Tensor:
        """Set slices and recoloured copies side by side: ``volume view partition channel *space``."""
        copies = self.recolour.apply(batch.copies, self._drawn(batch.changes))
        return torch.cat([batch.slices[:, None], copies], dim=1)

    def embed(self, images: Tensor) -> Tensor:
        """Embed ``volume view partition channel *space``: ``volume view partition dim``."""
        embedded: Tensor = self.projector(self.encoder(images.flatten(0, 2))[-1])
        return embedded.view(*images.shape[:3], -1)

    def global_loss(self, embeddings: Tensor) -> Tensor:
        """Contrast the slices of all devices."""
        rows = gather_rows(embeddings)
        return global_contrast(rows, across=self.across, temperature=self.options.temperature)

    def local_step(self, batch: LocalSample) -> Iterator[Update]:
        """Stage 2: contrast places; the encoder's weights stand still."""
        self.encoder.train(self.official)
        yield Update(self.local_loss(self.embed_regions(self.versions(batch))))

    def versions(self, batch: LocalSample) -> Tensor:
        """Recolour slices twice: ``volume version partition channel *space``, the geometry untouched."""
        return self.recolour.apply(batch.slices[:, None], self._drawn(batch.changes))

    def decode(self, images: Tensor) -> Tensor:
        """Compute the first blocks of the decoder, on maps of the frozen encoder, of ``row channel *space``."""
        with torch.no_grad():
            maps = self.encoder(images)
        decoded: Tensor = self.decoder(maps[-self.options.decoder_blocks - 1 :])
        return decoded

    def embed_regions(self, versions: Tensor) -> Tensor:
        """Embed the grid of places of each image: ``volume version partition place dim``."""
        regions: Tensor = self.region_projector(self.decode(versions.flatten(0, 2)))
        return regions.view(*versions.shape[:3], *regions.shape[1:])

    def local_loss(self, regions: Tensor) -> Tensor:
        """Contrast places; with L^D, of the volumes of all devices."""
        own, across = self.options, self.options.local_loss == "ld"
        rows = gather_rows(regions) if across else regions
        return local_contrast(
            rows, across=across, places=own.positions, temperature=own.temperature
        )

    def optimiser(
        self, name: str, modules: Iterable[nn.Module]
    ) -> tuple[torch.optim.Optimizer, Schedule]:
        """Make Adam with a constant rate."""
        return torch.optim.Adam(parameters(modules), lr=self.options.lr), constant

    def score(self, batch: GlobalSample | dict[str, GlobalSample]) -> dict[str, Tensor]:
        """Count slices whose nearest one in another volume lies in the same partition."""
        embeddings = self.embed(self.recoloured(_first(batch)))
        partitions = embeddings.shape[2]
        nearest = nearest_slices(embeddings) % partitions
        own = torch.arange(len(nearest), device=nearest.device) % partitions
        return {
            "partition": (nearest == own).float().mean(),
            "partition chance": torch.tensor(1 / partitions),
            "loss": self.global_loss(embeddings),
            "loss chance": self.global_loss(torch.zeros_like(embeddings)),
        }

    def local_score(self, batch: LocalSample) -> dict[str, Tensor]:
        """Measure the loss beside that of knowing nothing, and how many places find themselves in the other version.

        The versions have one geometry, so that even fresh weights find most places; the loss tells more.
        """
        regions = self.embed_regions(self.versions(batch))
        chosen = [GRID * i + j for (i, j), _ in PLACES[: self.options.positions]]
        first, second = F.normalize(regions.float(), dim=-1)[..., chosen, :].unbind(1)
        nearest = (first @ second.mT).argmax(-1)
        return {
            "loss": self.local_loss(regions),
            "loss chance": self.local_loss(torch.zeros_like(regions)),
            "place": (nearest == torch.arange(len(chosen), device=nearest.device)).float().mean(),
            "place chance": torch.tensor(1 / len(chosen)),
        }

    def preview(self, batch: GlobalSample | dict[str, GlobalSample]) -> dict[str, Tensor]:
        """Show a volume's slices from its first partition on, copies, and what is nearest in other volumes."""
        images = self.recoloured(_first(batch))
        nearest = nearest_slices(self.embed(images))[: images.shape[2]]
        others = (images[:, 0] if len(images) > 1 else images[:, 1]).flatten(0, 1)
        shown = {"slice": images[0, 0], "copy": images[0, 1], "nearest elsewhere": others[nearest]}
        return {caption: upright(each).float().clamp(0, 1) for caption, each in shown.items()}

    def local_preview(self, batch: LocalSample) -> dict[str, Tensor]:
        """Show both versions, and where the second one is like the middle of the first."""
        versions = self.versions(batch)[:, :, 0]
        first, second = (self.decode(versions[:, each]) for each in (0, 1))
        middle = self.region_projector(first)[:, GRID * GRID // 2, :, None, None]
        alike = F.cosine_similarity(middle, self.region_projector.everywhere(second), dim=1)
        shown = {
            "version 1": versions[:, 0],
            "version 2": versions[:, 1],
            "like the middle": F.interpolate(alike[:, None].float(), self.patch),
        }
        return {caption: upright(each).float().clamp(0, 1) for caption, each in shown.items()}

    def carries(self) -> dict[str, nn.Module]:
        """Carry the encoder to any task, and to segmentation the trained blocks of the decoder."""
        return {"encoder": self.encoder, "decoder": self.decoder}

    def _drawn(self, changes: Tensor) -> Tensor:
        """Give every slice its own change, or in official mode the first one's to all."""
        return changes[:1, :, :1].expand_as(changes) if self.official else changes


def nearest_slices(embeddings: Tensor) -> Tensor:
    """Find the nearest slice of other volumes for each slice, or its nearest copy where there is one volume.

    Parameters
    ----------
    embeddings
        ``volume view partition dim``; the first view is the slice itself.

    Returns
    -------
    Tensor
        One index a slice, into ``volume partition`` in one row.
    """
    rows = F.normalize(embeddings.float(), dim=-1)
    if len(rows) == 1:
        return (rows[0, 0] @ rows[0, 1].T).argmax(1)
    alike = torch.einsum("vpd,wqd->vpwq", rows[:, 0], rows[:, 0])
    volumes = torch.arange(len(rows), device=rows.device)
    alike[volumes, :, volumes] = -torch.inf
    return alike.flatten(2).flatten(0, 1).argmax(1)


def _first(batch: GlobalSample | dict[str, GlobalSample]) -> GlobalSample:
    """Take one draw: held-out batches have the same volumes in both, and a volume is no neighbour of itself."""
    return batch["first"] if isinstance(batch, dict) else batch
