"""Cytoarchitectonic siamese network: say how far apart in a brain two patches of sections lie (Spitzer et al., MICCAI 2018).

Two patches of one brain, of any sections, pass one network, whose features are f_1 and f_2.  Their distance d along the
brain's surface is predicted from the difference, ``w . |f_1 - f_2| + b``, and the position x of each patch from its own
feature by one linear layer.  The loss is ``rho(d' - d) + alpha (rho(x_1' - x_1) + rho(x_2' - x_2))``, rho Huber's.  The
pattern of cell layers changes from area to area: to tell the distance, the network has to read it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, NamedTuple, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from unlabeled.data.brains import Cortex
from unlabeled.data.intensity import IntensityRule
from unlabeled.data.positions import Place, Places, mean_distance
from unlabeled.data.scan import Unit
from unlabeled.data.store import Record
from unlabeled.errors import OptionError
from unlabeled.methods._base import (
    Feed,
    Method,
    Monitor,
    Needs,
    Phase,
    SharedOptions,
    Update,
    parameters,
    patch_for,
)
from unlabeled.nn.distance import DistanceHead, PatchFeature, pearson
from unlabeled.nn.encoders import Encoder
from unlabeled.nn.schedules import Schedule, constant
from unlabeled.options import Count, NonNegative, Positive, Probability
from unlabeled.transforms.intensity import GainOffset
from unlabeled.transforms.orientation import SectionPatch
from unlabeled.transforms.overlay import filled, in_range
from unlabeled.transforms.tissue import TissueShare

SAME = 0.25  # share of held-out pairs that are of one section (ours)


@dataclass(frozen=True, kw_only=True)
class Options(SharedOptions):
    """Defaults of the experiment code of the authors' group unless another source is named.

    Parameters
    ----------
    patch_size
        Edges of a patch [pixel]; there, of 2 um.
    epochs
        Passes over the sections; `steps` ends the training before (ours).
    steps
        Optimiser rounds.
    batch_size
        Pairs a step.
    samples_per_scan
        Pairs that each section counts for in an epoch (ours); they are of the whole brain.
    lr
        Learning rate of Adam, constant.
    encoder
        Network that sees each patch; section-cnn is the published one, for patches of 635 pixels or more.
    features
        Numbers that describe a patch, each between 0 and 1.
    head
        How the distance is made of two features: weighted absolute differences, weighted squares, or the plain sum of
        squares.
    loss
        Huber's, or the plain square.
    delta
        Where Huber's loss turns straight, as a share of the largest distance (30 of 220).
    alpha
        Weight of the positions (ours; unconfirmed).
    surface
        The brain's surface, GIFTI, MNI object or npz; without it, distances are straight ones.
    inflated
        The same surface blown up: positions are then those on it.
    distance
        With a surface: the way along it, or the straight way on the inflated one.
    points
        Vertices that are drawn from the surface; all their distances are measured once (ours).
    reach
        Farthest that a vertex may lie from its section; without it, half the gap between sections (ours).
    cortex
        Where patches lie: in tissue found by its brightness; in the manifest's mask; or within a mask that is a map of
        depth, 0 outside and largest inside, along which patches are turned.
    least_tissue
        Share of a patch that must be tissue (ours).
    rotation
        Largest further turn of a patch, to either side [degree] (there, an option that is off).
    gain
        Smallest and largest factor of the intensities of a patch (ours).
    offset
        Largest number added to the standardised intensities, or taken away (ours).
    scale
        Distance that becomes 1, in the unit of the positions; without it, the largest one.
    centre
        Position that becomes 0; without it, the middle of all.
    """

    patch_size: tuple[Count, ...] = (1019, 1019)
    epochs: Count = 1_000_000
    steps: Count | None = 15_000
    batch_size: Count = 32
    samples_per_scan: Count = 200
    lr: Positive = 1e-3
    encoder: str = "section-cnn"
    features: Count = 500
    head: Literal["l1_weighted", "l2_weighted", "l2_sum"] = "l1_weighted"
    loss: Literal["huber", "squared"] = "huber"
    delta: Positive = 30 / 220
    alpha: NonNegative = 1.0
    surface: str | None = None
    inflated: str | None = None
    distance: Literal["geodesic", "inflated"] = "geodesic"
    points: Count = 1024
    reach: Positive | None = None
    cortex: Literal["tissue", "mask", "depth"] = "tissue"
    least_tissue: Probability = 0.5
    rotation: NonNegative = 0.0
    gain: tuple[Positive, Positive] = (0.9, 1.1)
    offset: NonNegative = 0.1
    scale: Positive | None = None
    centre: tuple[float, float, float] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.gain[0] > self.gain[1]:
            low, high = self.gain
            raise OptionError(f"--gain {low:g} {high:g} falls", f"Give --gain {high:g} {low:g}.")
        if self.inflated and not self.surface:
            raise OptionError(
                "--inflated is given without the surface that it was made of",
                "Give --surface as well.",
            )
        if self.distance == "inflated" and not self.inflated:
            raise OptionError(
                "--distance inflated has no inflated surface", "Give --surface and --inflated."
            )

    @property
    def cortices(self) -> Cortex:
        """Where patches may be cut."""
        return Cortex(
            patch=(self.patch_size[0], self.patch_size[1]),
            least=self.least_tissue,
            cortex=self.cortex,
            surface=self.surface,
            inflated=self.inflated,
            count=self.points,
            reach=self.reach,
            seed=self.seed,
            straight=self.distance == "inflated",
        )


class Pair(NamedTuple):
    """Two patches of one brain, how far apart they lie and where; distances and positions as shares of the scale."""

    first: Tensor  # *batch channel rows columns
    second: Tensor
    distance: Tensor  # *batch
    places: Tensor  # *batch 2 3
    same: Tensor  # *batch: whether both are of one section


class CytoarchitectonicSiamese(Method):
    """One network sees two patches; two heads say how far apart they lie, and where each does."""

    needs: ClassVar[Needs] = Needs(unit=Unit.SECTION, dims=(2,), metadata=("position",))
    options_class: ClassVar[type[SharedOptions]] = Options
    monitor: ClassVar[Monitor] = Monitor("error", "lower", chance="error_mean")
    keeps = "best"
    holds_out = "section"

    options: Options
    mean: Tensor

    def __init__(self, options: Options, encoder: Encoder) -> None:
        super().__init__(options, encoder)
        rows, columns = patch_for(encoder, options.patch_size)
        self.patch = rows, columns
        encoder.check(self.patch)
        self.feature = PatchFeature(encoder, self.patch, options.features)
        self.apart = DistanceHead(options.features, options.head)
        self.locate = nn.Linear(options.features, 3)
        self.patches = SectionPatch(self.patch, options.cortex == "depth", options.rotation)
        self.recolour = GainOffset(options.gain, options.offset)
        self.known: dict[tuple[str, ...], dict[str, Places]] = {}
        self.register_buffer("mean", torch.tensor(0.5))  # distance of the pairs that are trained on

    @classmethod
    def intensity(cls, options: SharedOptions) -> IntensityRule:
        """Standardise each section by itself, so that its stain tells little; beyond it lies the mean, zero."""
        return IntensityRule(kind="standard")

    @classmethod
    def preparation(cls, options: SharedOptions) -> TissueShare:
        """Find once where a section is tissue."""
        return TissueShare()

    @classmethod
    def require(cls, record: Record, options: SharedOptions) -> None:
        """Refuse volumes, sections without the mask that is asked for, and those where no patch fits."""
        cast(Options, options).cortices.require(record)

    @classmethod
    def suit(cls, options: Options, records: Sequence[Record]) -> Options:
        """Measure what becomes 1, what becomes 0, and how far a vertex may lie from its section.

        Raises
        ------
        DataError
            A surface is given for several brains, or does not meet the sections.
        """
        cortex = options.cortices.suit(records)
        options = replace(options, reach=cortex.reach)
        if options.scale is not None and options.centre is not None:
            return options
        largest, middle = cortex.extent(records)
        return replace(
            options, scale=options.scale or largest or 1.0, centre=options.centre or middle
        )

    def notes(self) -> tuple[str, ...]:
        """Say what the distances are."""
        if not self.options.surface:
            return ("Euclidean distance: no surface is given, so folds of the brain count as near",)
        along = self.options.distance == "geodesic"
        way = "geodesic distance: along" if along else "Euclidean distance on the inflated form of"
        return (f"{way} {self.options.surface}",)

    def phases(self) -> tuple[Phase, ...]:
        """Draw pairs of whole brains; a brain counts as often as it has sections."""
        feed = Feed(self.views, self.options.batch_size, self.needs.unit, group=self.brains)
        return (
            Phase("pretrain", self.step, {"main": [self]}, {"pairs": feed}, before=self.measure),
        )

    def brains(self, records: Sequence[Record]) -> list[Places]:
        """List the places of each brain, once for each of its sections."""
        asked = tuple(record.key for record in records)
        if asked not in self.known:  # distances along a surface take a while
            self.known[asked] = self.options.cortices.brains(records)
        return [self.known[asked][record.subject] for record in records]

    def measure(self, records: Sequence[Record]) -> None:
        """Measure the mean distance of pairs: what who knows nothing would say."""
        rng = torch.Generator().manual_seed(self.options.seed)
        self.mean.fill_(mean_distance(self.brains(records), rng) / self.scale)

    @property
    def scale(self) -> float:
        """Distance that becomes 1."""
        return self.options.scale or 1.0

    def views(self, record: Places, rng: Generator) -> Pair:  # type: ignore[override]
        """Draw two places of a brain, and cut a patch at each; some held-out pairs are of one section."""
        one = record.draw(rng)
        same = not self.training and torch.rand((), generator=rng).item() < SAME
        other = record.draw_partner(one, rng, same=same)
        centre = np.array(self.options.centre or (0.0, 0.0, 0.0))
        places = (np.stack([one.position, other.position]) - centre) / self.scale
        return Pair(
            self.cut(record, one, rng),
            self.cut(record, other, rng),
            torch.tensor(record.distance(one, other) / self.scale, dtype=torch.float32),
            torch.from_numpy(places.astype(np.float32)),
            torch.tensor(one.section == other.section),
        )

    def cut(self, brain: Places, place: Place, rng: Generator) -> Tensor:
        """Cut the patch about a place, its depth turned to the right where there is a map of it."""
        section = brain.records[place.section]
        image = self.patches(section, place.at, rng if self.training else None)
        return self.recolour(image, rng) if self.training else image

    def predict(self, batch: Pair) -> tuple[Tensor, Tensor]:
        """Say the distances, ``batch``, and the positions of both patches, ``batch 2 3``, as shares of the scale."""
        features = self.feature(self.encoder, torch.cat([batch.first, batch.second]))
        one, other = features.chunk(2)
        places = torch.stack([self.locate(one), self.locate(other)], 1)
        return self.apart(one, other).float(), places.float()

    def step(self, batch: Pair) -> Iterator[Update]:
        """Compare distances and positions with the true ones."""
        distance, places = self.predict(batch)
        apart = self.penalty(distance, batch.distance).mean()
        located = self.penalty(places, batch.places).sum((1, 2)).mean()
        yield Update(
            apart + self.options.alpha * located,
            shows={"distance loss": apart.detach(), "position loss": located.detach()},
        )

    def penalty(self, found: Tensor, true: Tensor) -> Tensor:
        """Compute rho of every residual."""
        if self.options.loss == "squared":
            return F.mse_loss(found, true, reduction="none")
        return F.huber_loss(found, true, reduction="none", delta=self.options.delta)

    def optimiser(
        self, name: str, modules: Iterable[nn.Module]
    ) -> tuple[torch.optim.Optimizer, Schedule]:
        """Make Adam with a constant rate."""
        return torch.optim.Adam(parameters(modules), lr=self.options.lr), constant

    def score(self, batch: Pair) -> dict[str, Tensor]:
        """Measure how far off distances and positions are, in the unit of the positions.

        ``error_mean`` is that of always saying the mean distance, ``error_place_middle`` of always saying the middle;
        ``correlation`` Pearson's.  A batch without pairs of one section shows the error of all in their place.
        """
        distance, places = self.predict(batch)
        off, all_alike = ((d - batch.distance).abs() for d in (distance, self.mean))
        same = batch.same.bool()
        scores = {
            "error": off.mean(),
            "error_mean": all_alike.mean(),
            "error_same_section": (off[same] if same.any() else off).mean(),
            "error_other_section": (off[~same] if (~same).any() else off).mean(),
            "error_place": (places - batch.places).norm(dim=2).mean(),
            "error_place_middle": batch.places.norm(dim=2).mean(),
        }
        scores = {name: value * self.scale for name, value in scores.items()}
        return scores | {"correlation": pearson(distance, batch.distance)}

    def preview(self, batch: Pair) -> dict[str, Tensor]:
        """Show both patches, and the distance, true and as predicted: the part of a bar that is filled."""
        distance, _ = self.predict(batch)
        space = batch.first.shape[2:]
        return {
            "first patch": in_range(batch.first),
            "second patch": in_range(batch.second),
            "distance, true": filled(batch.distance, space),
            "distance, predicted": filled(distance, space),
        }
