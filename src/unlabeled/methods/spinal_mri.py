"""Spinal MRI: is this the same person, years later, and which vertebra is it (Jamaludin et al., DLMIA 2017).

A Siamese network sees two vertebral bodies a, b of the same level, cut from two scans: of one person at two visits
(y = 1), or of two people (y = 0).  With x the embedding of a body and d = |x_a - x_b|,

    L_C = y d^2 + (1 - y) max(0, m - d)^2
    L_Y = -log softmax(W h_a)_level - log softmax(W h_b)_level
    L   = L_C + lambda L_Y

Identity makes the network look at what persists over years, the level keeps anatomy in the features h.  Boxes and names
of the levels come with the scans, from a detector or by hand; nothing here finds them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from unlabeled.data.bodies import Body, bodies_by_level, bodies_by_position, in_order
from unlabeled.data.intensity import IntensityRule
from unlabeled.data.revisits import BodyPair, pair_bodies
from unlabeled.data.scan import Unit
from unlabeled.data.store import Record
from unlabeled.errors import DataError, OptionError, ScanError
from unlabeled.losses.contrastive import margin_contrast
from unlabeled.losses.ranking import area_under_curve
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
from unlabeled.nn.encoders import Encoder
from unlabeled.nn.heads import pool
from unlabeled.nn.schedules import Schedule, stepping
from unlabeled.options import Between, Count, NonNegative, Positive, Probability, Whole
from unlabeled.rng import generator
from unlabeled.transforms.body_views import BodyView
from unlabeled.transforms.intensity import GainOffset

WEIGHT_DECAY = 5e-4  # unconfirmed
PATCH = (9, 224, 224)
LEVELS = 7  # T12 to S1, where no scan says otherwise
STARTING_PAIRS = 256  # that the untrained network is measured on, at most


@dataclass(frozen=True, kw_only=True)
class Options(SharedOptions):
    """Only the paper's abstract was available: what is not marked as the paper's is unconfirmed or ours.

    Parameters
    ----------
    epochs
        Times that every subject begins a pair (ours).
    batch_size
        Pairs a step, half of them of one person (unconfirmed).
    lr
        Learning rate at the start; a tenth from 60 % of the training on, a hundredth from 80 % on (ours).
    encoder
        Network that sees each body, with the same weights (paper: a Siamese CNN; ours: four convolutions).
    patch_size
        Sagittal slices, then rows and columns of the plane of a body [voxel] (unconfirmed).
    optimiser
        SGD with momentum 0.9 (unconfirmed), or Adam.
    features
        Length of an embedding (ours).
    margin
        Distance up to which two people are pushed apart (unconfirmed).
    contrastive_weight
        Of the contrastive loss; 0 leaves the level alone.
    level_weight
        Lambda, of the classification of the level (unconfirmed); 0 leaves identity alone.
    normalise
        Bring embeddings to length 1, so that no distance exceeds 2 (ours, off as published).
    pairing
        By the level that a manifest names with boxes; or by position in the foreground, a weaker stand-in of ours that
        needs neither.
    places
        Parts of the foreground that stand in for levels, for pairing by position (ours).
    levels
        Names of the levels to learn from; without it, all that the scans have.
    surround
        What is seen around a box on every side, over its longer edge (the authors' later system).
    rotation
        Largest turn in the plane, to either side [degree]; each body is changed by itself (unconfirmed).
    zoom
        Smallest and largest magnification (unconfirmed).
    shift
        Largest move in the plane, over the edges of what is seen (unconfirmed).
    slice_shift
        Largest move across slices [slice] (unconfirmed).
    gain
        Smallest and largest factor of the intensities (unconfirmed).
    p_mirror
        Probability of reversing the order of slices (unconfirmed).
    """

    epochs: Count = 100
    batch_size: Annotated[int, Between(2)] = 64
    lr: Positive = 1e-3
    encoder: str = "thin-cnn"
    patch_size: tuple[Count, ...] = PATCH
    optimiser: Literal["sgd", "adam"] = "sgd"
    features: Count = 128
    margin: Positive = 1.0
    contrastive_weight: NonNegative = 1.0
    level_weight: NonNegative = 1.0
    normalise: bool = False
    pairing: Literal["level", "position"] = "level"
    places: Count = LEVELS
    levels: tuple[str, ...] = ()
    surround: NonNegative = 1.0
    rotation: NonNegative = 15.0
    zoom: tuple[Positive, Positive] = (0.9, 1.1)
    shift: Probability = 0.05
    slice_shift: Whole = 1
    gain: tuple[Positive, Positive] = (0.9, 1.1)
    p_mirror: Probability = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, (low, high) in (("--zoom", self.zoom), ("--gain", self.gain)):
            if low > high:
                fact = f"{name} {low:g} {high:g} falls"
                raise OptionError(fact, f"Give {name} {high:g} {low:g}.")
        if not self.contrastive_weight and not self.level_weight:
            fact = "--contrastive-weight and --level-weight are both 0: there is nothing to learn"
            raise OptionError(fact, "Give one of them a positive number.")


class Pair(NamedTuple):
    """Two bodies of one level, ``*batch channel *space``; 1 where they are of one person, else 0; the level's number."""

    first: Tensor
    second: Tensor
    same: Tensor
    level: Tensor


class SpinalMRI(Method):
    """One network sees two bodies of the same level and says whether they are of one person, and which level it is."""

    needs: ClassVar[Needs] = Needs(
        unit=Unit.STUDY, dims=(2, 3), metadata=("level", "boxes"), subjects=2, held_out=2
    )
    options_class: ClassVar[type[SharedOptions]] = Options
    monitor: ClassVar[Monitor] = Monitor("auc", "higher", chance="chance")
    keeps = "best"

    options: Options
    untrained: Tensor

    def __init__(self, options: Options, encoder: Encoder) -> None:
        super().__init__(options, encoder)
        patch = patch_for(encoder, options.patch_size)
        encoder.check(patch)
        width = encoder.channels[-1]
        self.embedding = nn.Linear(width, options.features)
        self.classifier = nn.Linear(width, len(options.levels) or LEVELS)
        self.register_buffer("untrained", torch.tensor(0.5))
        self.look = BodyView(
            patch,
            surround=options.surround,
            rotation=options.rotation,
            zoom=options.zoom,
            shift=options.shift,
            slices=options.slice_shift,
            p_mirror=options.p_mirror,
        )
        self.recolour = GainOffset(options.gain, 0.0)

    @classmethod
    def intensity(cls, options: SharedOptions) -> IntensityRule:
        """Scale every scan by itself, from the 1st to the 99th percentile."""
        return IntensityRule(percentiles=(1.0, 99.0))

    @classmethod
    def needs_with(cls, options: Any) -> Needs:
        """Leave levels and boxes to `require`, which says how to write them and what else there is."""
        return replace(cls.needs, metadata=())

    @classmethod
    def require(cls, record: Record, options: SharedOptions) -> None:
        """Refuse a scan without levels and boxes, unless bodies are paired by position."""
        own = cast(Options, options)
        if not bodies_of(record, own):
            there = in_order(body.level for body in bodies_of(record, replace(own, levels=())))
            raise ScanError(
                f"has none of the levels {', '.join(own.levels)}, but {', '.join(there)}",
                "Name others with --levels, or leave the option out to take all.",
            )

    @classmethod
    def suit(cls, options: Any, records: Sequence[Record]) -> Any:
        """List the levels that the scans have, and refuse scans among which nobody was seen twice."""
        everything = replace(options, levels=())
        bodies = [body for record in records for body in bodies_of(record, everything)]
        found = in_order(body.level for body in bodies)
        missing = [level for level in options.levels if level not in found]
        if missing:
            raise DataError(
                f"no scan has the level {missing[0]}; they have {', '.join(found)}",
                f"Give --levels {' '.join(found)}, or leave the option out.",
            )
        levels = options.levels or found
        if not pair_bodies(body for body in bodies if body.level in levels):
            raise DataError(
                f"among {len({record.subject for record in records})} subjects, nobody was scanned at two visits with the "
                "same level and modality, or nobody else has that level",
                "Name who was scanned when: columns `subject` and `study` (or `time`) of a manifest.",
            )
        patch = options.patch_size
        plane = PATCH[1:] if options.dims == 2 and patch == PATCH[:2] else patch
        return replace(options, levels=levels, patch_size=plane)

    def phases(self) -> tuple[Phase, ...]:
        """Train on pairs, half of one person and half of two people; measure the untrained network before."""
        feed = Feed(self.views, self.options.batch_size, self.needs.unit, group=self.pairs)
        return (
            Phase("pretrain", self.step, {"main": [self]}, {"bodies": feed}, before=self.begin),
        )

    def pairs(self, records: Sequence[Record]) -> tuple[BodyPair, ...]:
        """List pairs of one person and of two people in turn."""
        return pair_bodies(b for record in records for b in bodies_of(record, self.options))

    def begin(self, records: Sequence[Record]) -> None:
        """Measure how well the untrained network tells people apart: size and brightness alone tell some."""
        pairs = self.pairs(records)[:STARTING_PAIRS]
        device, batch = self.untrained.device, self.options.batch_size
        was, distances = self.training, []
        self.eval()
        with torch.no_grad():
            for start in range(0, len(pairs), batch):
                made = [
                    self.views(pair, generator(self.options.seed, "untrained", start + place))
                    for place, pair in enumerate(pairs[start : start + batch])
                ]
                both = [torch.stack([sample[side] for sample in made]) for side in (0, 1)]
                features = self.features(torch.cat(both).to(device))
                one, other = self.embed(features).chunk(2)
                distances.append((one - other).norm(dim=1))
        self.train(was)
        far = torch.cat(distances)
        same = torch.tensor([pair.same for pair in pairs], device=device)
        self.untrained.copy_(area_under_curve(far[~same], far[same]))

    def views(self, record: BodyPair, rng: Generator) -> Pair:  # type: ignore[override]
        """Draw two bodies of one level, and look at each by itself."""
        first, second = record.draw(rng)
        level = torch.tensor((self.options.levels or record.roster.levels).index(first.level))
        return Pair(self.view(first, rng), self.view(second, rng), torch.tensor(record.same), level)

    def view(self, body: Body, rng: Generator) -> Tensor:
        """Cut out a body; in training, turn, scale and move it a little, and change its brightness."""
        if not self.training:
            return self.look(body)
        return self.recolour(self.look(body, self.look.draw(rng)), rng)

    def features(self, image: Tensor) -> Tensor:
        """Compute h, ``batch width``, of bodies ``batch channel *space``."""
        return pool(self.encoder(image)).float()

    def embed(self, features: Tensor) -> Tensor:
        """Compute x, ``batch features``, from h."""
        embedded: Tensor = self.embedding(features).float()
        return F.normalize(embedded, dim=1) if self.options.normalise else embedded

    def both(self, batch: Pair) -> tuple[Tensor, Tensor, Tensor]:
        """Compute the embeddings of both members, and the logits of the levels of both, one below the other."""
        features = self.features(torch.cat([batch.first, batch.second]))
        first, second = self.embed(features).chunk(2)
        return first, second, self.classifier(features).float()

    def step(self, batch: Pair) -> Iterator[Update]:
        """Draw one person's bodies together, push two people's apart, and name the level of both."""
        options = self.options
        first, second, logits = self.both(batch)
        contrast = margin_contrast(first, second, batch.same, options.margin).mean()
        level = 2 * F.cross_entropy(logits, batch.level.repeat(2))  # the sum over both members
        loss = options.contrastive_weight * contrast + options.level_weight * level
        yield Update(loss, shows={"contrastive": contrast, "level": level})

    def optimiser(
        self, name: str, modules: Iterable[nn.Module]
    ) -> tuple[torch.optim.Optimizer, Schedule]:
        """Make SGD with momentum, or Adam; the rate falls to a tenth at 60 % and again at 80 % of the training."""
        moved, lr = parameters(modules), self.options.lr
        made: torch.optim.Optimizer
        if self.options.optimiser == "adam":
            made = torch.optim.Adam(moved, lr=lr, weight_decay=WEIGHT_DECAY)
        else:
            made = torch.optim.SGD(moved, lr=lr, momentum=0.9, weight_decay=WEIGHT_DECAY)
        return made, stepping((60, 80), of=100)

    def score(self, batch: Pair) -> dict[str, Tensor]:
        """Tell people apart by distance, and name levels.

        ``auc`` is how often two people are further apart than one person at two visits, ``untrained`` the same before
        training, on training subjects; the distances are means, ``length`` is that of the embeddings.
        """
        first, second, logits = self.both(batch)
        far, same = (first - second).norm(dim=1), batch.same.bool()
        right = (logits.argmax(1) == batch.level.repeat(2)).float().mean()
        return {
            "auc": area_under_curve(far[~same], far[same]),
            "chance": far.new_tensor(0.5),
            "untrained": self.untrained,
            "level accuracy": right,
            "level chance": far.new_tensor(1 / logits.shape[1]),
            "distance of one person": _mean(far[same]),
            "distance of two people": _mean(far[~same]),
            "length": torch.cat([first, second]).norm(dim=1).mean(),
        }

    def preview(self, batch: Pair) -> dict[str, Tensor]:
        """Show both bodies, and which of the second bodies lies nearest to the first one; slices of volumes come last."""
        first, second, _ = self.both(batch)
        nearest = torch.cdist(first, second).argmin(1)
        one, other = (
            each.movedim(2, -1).clamp(0, 1) if each.ndim == 5 else each.clamp(0, 1)
            for each in batch[:2]
        )
        flag = batch.same.view(-1, *(1 for _ in one.shape[1:])).to(one.dtype).expand_as(one)
        return {
            "body": one,
            "same level, another scan": other,
            "one person: white": flag,
            "nearest of the other scans": other[nearest],
        }

    def notes(self) -> tuple[str, ...]:
        """Say that position stands in for levels."""
        if self.options.pairing == "level":
            return ()
        return (
            f"{self.options.places} parts of equal height stand in for vertebral levels (--pairing position): two visits "
            "show the same anatomy only as far as they show the same part of the body",
        )


def bodies_of(record: Record, options: Options) -> tuple[Body, ...]:
    """List the bodies of a scan that are learnt from."""
    if options.pairing == "position":
        return bodies_by_position(record, options.places)
    found = bodies_by_level(record)
    return tuple(body for body in found if not options.levels or body.level in options.levels)


def _mean(values: Tensor) -> Tensor:
    return values.mean() if values.numel() else values.new_tensor(0.0)
