"""Volume context: say where a second patch of a volume lies relative to a first (Blendowski et al., MICCAI 2019).

Two patches of one volume, each three thin parallel planes with a large field of view, pass one descriptor network; a head
sees both descriptors and draws a heatmap H of the displacement d within the planes, 10 exp(-15 |u - d|^2) on 19 x 19
cells; the loss is the mean of ``(H_predicted - H) ** 2``.  The second patch has also moved across the planes, so that
lines and edges do not go on from one to the other.  Each of the three axes has a network and a training of its own; their
descriptors beside each other (3 x 64) tell organs apart without further training (`unlabeled finetune label-transfer`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, ClassVar, Literal, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from unlabeled.data.intensity import IntensityRule
from unlabeled.data.scan import Unit
from unlabeled.data.slabs import PLANES, Frame, Slab, read_slab, read_slabs
from unlabeled.data.store import Record
from unlabeled.errors import OptionError, ScanError
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
from unlabeled.nn.displacement import HeatmapHead, OffsetHead, describe_patch
from unlabeled.nn.encoders import Encoder, build_encoder
from unlabeled.nn.schedules import Schedule, constant
from unlabeled.options import Between, Count, NonNegative, Positive, Probability
from unlabeled.transforms.heatmaps import PEAK, draw_blobs, find_blobs, mean_blob
from unlabeled.transforms.overlay import in_range

NAMES = ("sagittal", "coronal", "axial")  # planes across axis 0, 1, 2 of RAS
AXIAL = 2
#: For planes across axis 0, 1, 2: the axis of the heatmap's columns, and of its rows.
WITHIN = ((2, 1), (2, 0), (1, 0))
#: The same in the published code, whose grid counts axes from the last, and the axes of its two numbers.
WITHIN_OFFICIAL, NUMBERS_OFFICIAL = ((1, 0), (2, 0), (2, 1)), ((1, 0),) * 3


@dataclass(frozen=True, kw_only=True)
class Options(SharedOptions):
    """Defaults of the official code unless another source is named; lengths are coordinates, -1 to 1 along each axis.

    Parameters
    ----------
    patch_size
        Samples of a patch along the two axes of its planes.
    epochs
        Passes over the volumes; `steps` ends the training before (ours).
    steps
        Optimiser rounds of the three networks together, a third for each.
    batch_size
        Pairs a step, of as many volumes.
    samples_per_scan
        Pairs that each volume gives an epoch (ours; the official code keeps its volumes for as many steps).
    lr
        Learning rate of Adam, constant.
    encoder
        Network of each axis; context-cnn is the published one.
    target
        What is predicted: a heatmap of the displacement, or its two numbers (the paper's rival).
    reach
        Half the length of a patch along the axes of its planes.
    gap
        Between the three planes of a patch.
    centre
        Farthest that the first patch's centre lies from the middle, along each axis.
    first_move, last_move
        Smallest and largest displacement along each axis of the planes at the first step and at the last; in between,
        both change evenly.
    across
        Smallest and largest displacement across the planes.
    field
        Edge lengths of the box that coordinates span, about the middle of the body [voxel]; without it, the whole scan
        (ours; the official code cuts all volumes to 243 x 176 x 293 voxels of 1.5 mm about six organs).
    fidelity
        Mend the quirks of the official code, or reproduce them.
    """

    patch_size: tuple[Count, ...] = (42, 42)
    epochs: Count = 1_000_000
    steps: Count | None = 2_400_000
    batch_size: Count = 8
    samples_per_scan: Count = 25
    lr: Positive = 5e-5
    encoder: str = "context-cnn"
    target: Literal["heatmap", "offset"] = "heatmap"
    reach: Probability = 0.4
    gap: Positive = 0.05
    centre: Probability = 0.3
    first_move: tuple[NonNegative, NonNegative] = (0.25, 0.3)
    last_move: tuple[NonNegative, Annotated[float, Between(0, 1)]] = (0.0, 0.7)
    across: tuple[NonNegative, NonNegative] = (0.125, 0.25)
    field: tuple[Count, Count, Count] | None = None
    fidelity: Literal["clean", "official"] = "clean"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("first_move", "last_move", "across"):
            low, high = getattr(self, name)
            if low > high:
                typed = f"--{name.replace('_', '-')}"
                raise OptionError(
                    f"{typed} is from {low:g} to {high:g}", f"Give {typed} {high:g} {low:g}."
                )


class Turn(NamedTuple):
    """A volume whose planes across one axis are learnt from, and the share of its phase that is over."""

    record: Record
    axis: int = AXIAL
    over: float = 1.0


class Pair(NamedTuple):
    """Two patches of one volume, and how the second has moved."""

    first: Tensor  # *batch plane rows columns
    second: Tensor
    move: Tensor  # *batch 3: along each axis of the volume
    outside: Tensor  # *batch: share of both patches beyond the volume


class VolumeContext(Method):
    """Three networks, one for each axis, say where the second patch lies."""

    needs: ClassVar[Needs] = Needs(unit=Unit.VOLUME, dims=(2,), volumes=True)
    options_class: ClassVar[type[SharedOptions]] = Options
    monitor: ClassVar[Monitor] = Monitor("error", "lower", chance="error_centre")
    in_channels: ClassVar[int | None] = PLANES
    quirks: ClassVar[Mapping[str, str]] = {
        "first volumes": "official: only as many volumes are ever used as a batch holds, the first; clean: all",
        "axes": "official: displacements are counted from the last axis, so networks of the first and the last axis move "
        "across the wrong one, and their heatmaps show one axis across the planes; clean: patches move across the "
        "axis of their planes, heatmaps show the other two",
        "numbers": "official: with target=offset, all three networks learn the displacement along the first two axes; "
        "clean: within their planes",
    }

    options: Options

    def __init__(self, options: Options, encoder: Encoder) -> None:
        super().__init__(options, encoder)
        official = options.fidelity == "official"
        rows, columns = patch_for(encoder, options.patch_size)
        encoder.check((rows, columns))
        slab = Slab((rows, columns), options.reach, options.gap)
        self.samples = [slab.offsets(axis) for axis in range(len(NAMES))]
        self.within = WITHIN_OFFICIAL if official else WITHIN
        numbers = NUMBERS_OFFICIAL if official else WITHIN
        self.aims = self.within if options.target == "heatmap" else numbers
        self.sagittal, self.coronal = (
            build_encoder(encoder.name, dims=2, in_channels=encoder.in_channels) for _ in range(2)
        )
        head = HeatmapHead if options.target == "heatmap" else OffsetHead
        self.heads = nn.ModuleList(head(encoder.channels[-1]) for _ in NAMES)
        self.register_buffer("constant", mean_blob(*options.last_move), persistent=False)

    @classmethod
    def intensity(cls, options: SharedOptions) -> IntensityRule:
        """Standardise each volume without clipping; beyond it lies its mean, zero."""
        return IntensityRule(kind="standard")

    @classmethod
    def require(cls, record: Record, options: SharedOptions) -> None:
        """Refuse registered modalities: the networks' channels are planes."""
        if record.channels != 1:
            raise ScanError(
                f"has {record.channels} channels, and the networks see three planes of a single one",
                "Give scans of one modality: a manifest with one path in the column `image`.",
            )

    @property
    def encoders(self) -> tuple[Encoder, Encoder, Encoder]:
        """The networks of axis 0, 1 and 2."""
        return self.sagittal, self.coronal, self.encoder

    def phases(self) -> tuple[Phase, ...]:
        """Train the networks one after the other, a batch cut at once; displacements grow with each one's training."""
        many, unit = self.options.batch_size, self.needs.unit
        feeds = [
            Feed(
                self.views,
                many,
                unit,
                group=partial(self.turns, axis=axis),
                pace=_at,
                together=self.together,
            )
            for axis in range(len(NAMES))
        ]
        return tuple(
            Phase(
                name,
                partial(self.step, axis=axis),
                {"main": [self.encoders[axis], self.heads[axis]]},
                {"volumes": feed},
                score=partial(self.score, axis=axis),
                preview=partial(self.preview, axis=axis),
            )
            for axis, (name, feed) in enumerate(zip(NAMES, feeds, strict=True))
        )

    def turns(self, records: Sequence[Record], axis: int) -> list[Turn]:
        """Learn from all volumes; the official code from as many as a batch holds."""
        official = self.options.fidelity == "official"
        used = records[: self.options.batch_size] if official else records
        return [Turn(record, axis) for record in used]

    def views(self, record: Turn, rng: Generator) -> Pair:  # type: ignore[override]
        """Cut two patches of a volume."""
        volume, axis, _ = record
        first, move = self.draw(record, rng)
        second = [at + by for at, by in zip(first, move, strict=True)]
        frame, offsets = Frame.of(volume, self.options.field), self.samples[axis]
        one, missing = read_slab(volume, frame.place(first, offsets), axis)
        two, lacking = read_slab(volume, frame.place(second, offsets), axis)
        told = torch.tensor([*move, (missing + lacking) / 2])
        return Pair(one, two, told[:3], told[3])

    def together(self, turns: Sequence[Turn], rngs: Sequence[Generator]) -> Pair:
        """Cut the patches of `views` for a batch, all at once."""
        drawn = [self.draw(turn, rng) for turn, rng in zip(turns, rngs, strict=True)]
        frames = [Frame.of(turn.record, self.options.field) for turn in turns]
        places = [
            (turn.record, frame, [at + second * by for at, by in zip(first, move, strict=True)])
            for second in (0, 1)
            for turn, frame, (first, move) in zip(turns, frames, drawn, strict=True)
        ]
        axis = turns[0].axis
        slabs, missing = read_slabs(places, self.samples[axis], axis)
        first, second = slabs.chunk(2)
        moves = torch.tensor([move for _, move in drawn])
        return Pair(first, second, moves, missing.view(2, -1).mean(0).float())

    def draw(self, turn: Turn, rng: Generator) -> tuple[list[float], list[float]]:
        """Draw where the first patch lies and how the second moves, along each axis of the volume."""
        own, across = self.options, _third(self.within[turn.axis])
        drawn = torch.rand(9, generator=rng).tolist()
        first = [own.centre * (2 * u - 1) for u in drawn[:3]]
        near, far = (
            begin + turn.over * (end - begin)
            for begin, end in zip(own.first_move, own.last_move, strict=True)
        )
        move = []
        for along, (sign, u) in enumerate(zip(drawn[3:6], drawn[6:], strict=True)):
            low, high = own.across if along == across else (near, far)
            move.append((low + u * (high - low)) * (1 if sign < 0.5 else -1))
        return first, move

    def predict(self, batch: Pair, axis: int) -> Tensor:
        """Say where the second patches lie: maps ``batch 1 19 19``, or numbers ``batch 2``."""
        both = describe_patch(self.encoders[axis], torch.cat([batch.first, batch.second]))
        said: Tensor = self.heads[axis](*both.chunk(2))
        return said.float()

    def aim(self, batch: Pair, axis: int) -> Tensor:
        """Give the displacement that is to be predicted: along the map's columns and its rows, ``batch 2``."""
        return batch.move[:, list(self.aims[axis])].float()

    def step(self, batch: Pair, axis: int = AXIAL) -> Iterator[Update]:
        """Compare the predicted map with the blob at the true displacement, or the numbers with the true ones."""
        predicted, aim = self.predict(batch, axis), self.aim(batch, axis)
        if self.options.target == "heatmap":
            loss = F.mse_loss(predicted, draw_blobs(aim))
        else:
            loss = F.l1_loss(predicted, aim)
        yield Update(loss, shows={"outside": batch.outside.float().mean()})

    def optimiser(
        self, name: str, modules: Iterable[nn.Module]
    ) -> tuple[torch.optim.Optimizer, Schedule]:
        """Make Adam with a constant rate."""
        return torch.optim.Adam(parameters(modules), lr=self.options.lr), constant

    def score(self, batch: Pair, axis: int = AXIAL) -> dict[str, Tensor]:
        """Measure how far off the displacement is, and the maps beside two that know nothing.

        ``error_centre`` is that of saying "no displacement", ``mse_zero`` of an empty map, ``mse_constant`` of the mean
        of all maps; ``quadrant`` the share of pairs with both signs right.
        """
        predicted, aim = self.predict(batch, axis), self.aim(batch, axis)
        scores: dict[str, Tensor] = {}
        found = predicted
        if self.options.target == "heatmap":
            found, drawn = find_blobs(predicted), draw_blobs(aim)
            constant = cast(Tensor, self.constant).expand_as(drawn)
            scores = {
                "mse": F.mse_loss(predicted, drawn),
                "mse_constant": F.mse_loss(constant, drawn),
                "mse_zero": drawn.square().mean(),
            }
        return scores | {
            "error": (found - aim).norm(dim=1).mean(),
            "error_centre": aim.norm(dim=1).mean(),
            "quadrant": (found.sign() == aim.sign()).all(1).float().mean(),
            "quadrant_chance": torch.tensor(0.25),
            "outside": batch.outside.float().mean(),
        }

    def preview(self, batch: Pair, axis: int = AXIAL) -> dict[str, Tensor]:
        """Show the middle planes of both patches, and where the second lies from the first: truly, and as predicted."""
        predicted = self.predict(batch, axis)
        if self.options.target == "offset":
            predicted = draw_blobs(predicted)
        first, second = (in_range(each[:, PLANES // 2, None]) for each in batch[:2])
        maps = {
            "second from first": draw_blobs(self.aim(batch, axis)),
            "as predicted": predicted,
        }
        return {"first patch": first, "second patch": second} | {
            caption: (drawn / PEAK).clamp(0, 1) for caption, drawn in maps.items()
        }

    def carries(self) -> dict[str, nn.Module]:
        """Carry the axial network to any task, and all three to the transfer of labels."""
        return {"encoder": self.encoder, "sagittal": self.sagittal, "coronal": self.coronal}


def _at(turn: Turn, over: float) -> Turn:
    return turn._replace(over=over)


def _third(axes: tuple[int, int]) -> int:
    """Give the axis that is neither of two."""
    return 3 - sum(axes)
