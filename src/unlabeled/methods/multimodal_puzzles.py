"""Multimodal puzzles: put together an image whose pieces come from several modalities (Taleb et al., IPMI 2021).

Registered modalities of a slice are cut by one n x n grid, and every piece is taken from a modality drawn for it alone:
the puzzle P*, N = n^2 pieces.  They are given in a random order, P_i = P*_perm(i).  One encoder sees each piece; a head
gives it N logits, one a place, together a matrix X.  The Sinkhorn operator makes of X / tau, by L rounds, a soft
permutation S, which puts the pieces back:

    S = Sinkhorn(X / tau)        L = 1/(N D) || S^T P - P* ||^2        (D pixels a piece)

To place a piece whatever its contrast, the encoder must know the anatomy.  Where scans of two modalities are not
registered, translation between them may be learnt first; it lends each scan the modality that it lacks.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Any, ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor, nn

from unlabeled.data.intensity import IntensityRule
from unlabeled.data.scan import Unit
from unlabeled.data.slices import Slice, planes_with
from unlabeled.data.store import Record
from unlabeled.errors import DataError, OptionError, ScanError
from unlabeled.losses.assembly import (
    assembly_error,
    assembly_scores,
    put_back,
    shows_something,
    spread_of_pieces,
)
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
from unlabeled.methods._translation import (
    Picture,
    TranslationOptions,
    translation_adam,
    upright,
)
from unlabeled.nn.encoders import Encoder
from unlabeled.nn.heads import ClassificationHead
from unlabeled.nn.schedules import Schedule, cosine
from unlabeled.nn.sinkhorn import LEAST_TEMPERATURE, match, sinkhorn
from unlabeled.nn.unet import UNetEncoder
from unlabeled.options import Between, Count, NonNegative, Positive, Probability
from unlabeled.transforms.bodies import BODY_PIXELS, BodyCount
from unlabeled.transforms.mixed_puzzles import MixedPuzzle, not_blank, read_body
from unlabeled.transforms.overlay import in_range
from unlabeled.transforms.puzzles import assemble

SEAM = 2  # between the pieces of a preview [pixel]


@dataclass(frozen=True, kw_only=True)
class Options(TranslationOptions):
    """Defaults are ours unless another source is named: the paper's text was not at hand, and there is no code.

    Parameters
    ----------
    patch_size
        Edges of a whole puzzle [pixel]; pieces follow from --grid.
    batch_size
        Puzzles a step.
    samples_per_scan
        Puzzles that each scan gives an epoch.
    lr
        Learning rate at the start, of Adam; it falls to 0 on half a cosine.
    grid
        Pieces along each axis (the paper studies several).
    gap
        Share of a cell that a piece leaves free on every side, lest borders tell neighbours.
    fit
        Scale the body to the puzzle, or cut the puzzle out of it.
    least_body
        Share of a slice that must be body, lest it is left out.
    brightness
        Largest number added to a piece or taken away, of intensities of deviation 1.
    contrast
        Largest change of a piece's contrast.
    temperature
        Tau: divides the logits (of the paper unconfirmed).
    rounds
        L: of the Sinkhorn operator (published code of Mena et al., ICLR 2018).
    features
        Width of the layer before the logits.
    single
        Take scans of a single modality too, even where no scan has several: a plain puzzle.
    """

    patch_size: tuple[Count, ...] = (192, 192)
    batch_size: Count = 16
    epochs: Count = 100
    samples_per_scan: Count = 16
    lr: Positive = 1e-4
    grid: Annotated[int, Between(2, 5)] = 3
    gap: Annotated[float, Between(0, 0.25)] = 0.05
    fit: bool = True
    least_body: Probability = 0.1
    brightness: NonNegative = 0.0
    contrast: Probability = 0.0
    temperature: Annotated[float, Between(LEAST_TEMPERATURE)] = 0.5
    rounds: Count = 20
    features: Count = 512
    single: bool = False


class Body(NamedTuple):
    """A scan, and those of its slices that show enough of a body."""

    record: Record
    planes: NDArray[np.int64]


class Puzzle(NamedTuple):
    """The pieces of a slice, and how they were drawn; a batch of each."""

    pieces: Tensor  # piece 1 rows columns, in their right order
    order: Tensor  # slot: the piece that lies there
    modality: Tensor  # piece: which modality it is of; one beyond the scan's own is synthetic
    changes: Tensor  # piece 2: how much contrast and brightness change, in [-1, 1]
    synthetic: Tensor  # piece: whether translation makes it
    starts: Tensor  # piece 2: where it was cut
    source: Tensor  # 0|1 rows columns: what translation makes it of
    towards: Tensor  # number of the modality that is made; -1 for none
    axial: Tensor  # whether rows run from left to right, as in slices of volumes, and not down


class MultimodalPuzzles(Method):
    """One encoder sees pieces of several modalities; a head and the Sinkhorn operator put them back."""

    needs: ClassVar[Needs] = Needs(unit=Unit.STUDY, dims=(2,), some_channels=2)
    options_class: ClassVar[type[SharedOptions]] = Options
    monitor: ClassVar[Monitor] = Monitor("accuracy", "higher", chance="chance")
    in_channels: ClassVar[int | None] = 1  # every modality by itself

    options: Options

    def __init__(self, options: Options, encoder: Encoder) -> None:
        super().__init__(options, encoder)
        self.edges = patch_for(encoder, options.patch_size)
        multiple = encoder.strides[-1][0] if isinstance(encoder, UNetEncoder) else 1
        self.puzzle = MixedPuzzle.of(self.edges, options.grid, options.gap, multiple)
        self.require_room(multiple)
        self.head = ClassificationHead(encoder, self.puzzle.pieces, hidden=options.features)
        self.translation = options.translation(self.edges)

    def require_room(self, multiple: int) -> None:
        """Refuse pieces too small for the network: its coarsest map shall have two positions, of whole multiples."""
        size, coarsest = self.puzzle.cells.size, self.encoder.strides[-1]
        positions = math.prod(math.ceil(edge / by) for edge, by in zip(size, coarsest, strict=True))
        if positions < 2 or any(edge % multiple for edge in size):
            enough = math.ceil(2 * coarsest[0] / (1 - 2 * self.options.gap)) + 1
            edges = " ".join([str(self.options.grid * enough)] * 2)
            raise OptionError(
                f"pieces of {' x '.join(map(str, size))} pixels are too small for {self.encoder.name}",
                f"Give --patch-size {edges}, a smaller --grid, or --encoder resenc-tiny.",
            )

    @classmethod
    def intensity(cls, options: SharedOptions) -> IntensityRule:
        """Standardise each modality of each scan by its own foreground."""
        return IntensityRule(kind="zscore")

    @classmethod
    def preparation(cls, options: SharedOptions) -> BodyCount:
        """Count once how much of every slice is body."""
        return BodyCount()

    @classmethod
    def require(cls, record: Record, options: Any) -> None:
        """Refuse colours, which are no modalities, and scans without a slice that shows enough of a body."""
        if record.colour:
            raise ScanError(
                "is in colour, and red, green and blue are no modalities", "Leave it out."
            )
        if not len(body_planes(record, options)):
            raise ScanError(
                f"has no slice of which {options.least_body:.0%} are body",
                "Give a smaller --least-body.",
            )

    @classmethod
    def needs_with(cls, options: Any) -> Needs:
        """Leave it to `suit` to ask for several modalities: options do without."""
        return replace(cls.needs, some_channels=1)

    @classmethod
    def suit(cls, options: Any, records: Sequence[Record]) -> Any:
        """Refuse scans among which there is nothing to mix, or nothing to translate."""
        several = sum(record.channels > 1 for record in records)
        if not (several or options.single or options.translate):
            raise DataError(
                f"none of {len(records)} scans has two registered modalities to mix",
                "Name the registered files of a scan in one row of a manifest, separated by `;`, in the column "
                "`image`.  --single takes a single modality, as a plain puzzle; --translate makes one of another.",
            )
        options.require_modalities([modalities(record) for record in records])
        return options

    def phases(self) -> tuple[Phase, ...]:
        """Learn translation first, where it is asked for; then solve puzzles, with the translators as they are."""
        feed = Feed(self.views, self.options.batch_size, self.needs.unit, group=self.bodies)
        trains = {"main": [self.encoder, self.head]}
        puzzles = Phase("puzzles", self.step, trains, {"scans": feed})
        if self.translation is None:
            return (puzzles,)
        feeds = {
            name: Feed(
                partial(self.picture, name),
                self.options.batch_size,
                Unit.SLICE,
                accepts=partial(holds, name),
                group=self.bodies,
            )
            for name in self.translation.names
        }
        return self.translation.phase(feeds, self.options.translation_share), puzzles

    def bodies(self, records: Sequence[Record]) -> list[Body]:
        """Look once which slices may be drawn."""
        return [Body(record, body_planes(record, self.options)) for record in records]

    def area(self, body: Body, rng: Generator) -> Tensor:
        """Read the body in a random slice, ``modality rows columns``."""
        plane = int(body.planes[int(torch.randint(len(body.planes), (), generator=rng))])
        return read_body(Slice(body.record, plane), self.edges, fit=self.options.fit, rng=rng)

    def picture(self, name: str, body: Body, rng: Generator) -> Picture:
        """Read one modality of a slice, for the translation."""
        at = modalities(body.record).index(name)
        return Picture(self.area(body, rng)[at : at + 1], is_axial(body.record))

    def views(self, record: Body, rng: Generator) -> Puzzle:  # type: ignore[override]
        """Draw a slice, and a puzzle of it; held-out scans lend nothing synthetic."""
        area = self.area(record, rng)
        pool, own = not_blank(area), len(area)
        source, towards = area[:0], -1
        if self.translation is not None:
            source = area[:1]  # batches need one, used or not
        if self.translation is not None and self.training:
            known = modalities(record.record)
            shown = [name in known and known.index(name) in pool for name in self.translation.names]
            if sum(shown) == 1:
                towards = shown.index(False)
                at = known.index(self.translation.names[1 - towards])
                source, pool = area[at : at + 1], [*pool, own]
        mixture = self.puzzle.draw(pool, rng, jittered=self.training)
        synthetic = mixture.modality == own
        real = mixture._replace(modality=mixture.modality.clamp(max=own - 1))
        changes = 2 * torch.rand(self.puzzle.pieces, 2, generator=rng) - 1
        return Puzzle(
            pieces=self.puzzle.cut(area, real),
            order=mixture.order,
            modality=mixture.modality,
            changes=changes if self.training else torch.zeros_like(changes),
            synthetic=synthetic,
            starts=mixture.starts,
            source=source,
            towards=torch.tensor(towards),
            axial=is_axial(record.record),
        )

    def complete(self, batch: Puzzle) -> Tensor:
        """Give the puzzle as it belongs, P*: ``batch piece 1 rows columns``, synthetic pieces and changes of intensity included."""
        pieces = batch.pieces
        if self.translation is not None:
            lent = self.translation.cut(
                batch.source, batch.towards, batch.starts, self.puzzle.cells.size
            )
            pieces = torch.where(batch.synthetic[..., None, None, None], lent, pieces)
        options = self.options
        if options.brightness or options.contrast:
            factor, added = batch.changes[..., None, None, None, :].unbind(-1)
            pieces = pieces * (1 + options.contrast * factor) + options.brightness * added
        return pieces

    def place(self, slots: Tensor) -> Tensor:
        """Compute X, ``batch slot place``, from ``batch slot 1 rows columns``: each piece by itself, with the same weights."""
        logits: Tensor = self.head(self.encoder(slots.flatten(0, 1)))
        return logits.float().view(len(slots), -1, self.puzzle.pieces)

    def soft(self, logits: Tensor) -> Tensor:
        """Compute S, the soft permutation: how much of each slot belongs to each place."""
        return sinkhorn(logits, self.options.temperature, self.options.rounds)

    def step(self, batch: Puzzle) -> Iterator[Update]:
        """Put the pieces back, softly, and compare with the puzzle of the same modalities."""
        intact = self.complete(batch)
        slots = in_order(intact, batch.order)
        error = assembly_error(self.soft(self.place(slots)), slots, intact)
        yield Update(error, shows={"mean piece": spread_of_pieces(intact)})

    def optimiser(
        self, name: str, modules: Iterable[nn.Module]
    ) -> tuple[torch.optim.Optimizer, Schedule]:
        """Make Adam: half a cosine for the puzzles, as CycleGAN has it for the translation."""
        if name == "main":
            return torch.optim.Adam(parameters(modules), lr=self.options.lr), cosine()
        return translation_adam(self.options, modules)

    def score(self, batch: Puzzle) -> dict[str, Tensor]:
        """Match pieces and places by the Hungarian method.

        ``accuracy`` is the share of pieces that are put where they belong, background left out, ``chance`` that of
        guessing, ``whole`` the share of puzzles without a mistake; ``mse`` is the loss, ``mean piece`` that of S = 1/N.
        """
        intact = self.complete(batch)
        slots = in_order(intact, batch.order)
        logits = self.place(slots)
        return {
            **assembly_scores(match(logits), batch.order, shows_something(slots)),
            "mse": assembly_error(self.soft(logits), slots, intact),
            "mean piece": spread_of_pieces(intact),
        }

    def preview(self, batch: Puzzle) -> dict[str, Tensor]:
        """Show the pieces as they are given, put back for good, put back softly, and as they belong."""
        intact = self.complete(batch)
        slots = in_order(intact, batch.order)
        logits = self.place(slots)
        shown = {
            "given": slots,
            "put back": in_order(slots, match(logits).argsort(1)),
            "put back softly": put_back(self.soft(logits), slots),
            "as it was": intact,
        }
        whole = {caption: self.picture_of(pieces, intact) for caption, pieces in shown.items()}
        return {caption: upright(image, batch.axial) for caption, image in whole.items()}

    def picture_of(self, pieces: Tensor, intact: Tensor) -> Tensor:
        """Lay pieces side by side, with seams, ``batch 1 rows columns`` in [0, 1] as the intact puzzle has it."""
        grid = self.puzzle.cells.grid
        scaled = in_range(pieces, intact)
        return torch.stack([assemble(each, grid, seam=SEAM) for each in scaled])


def in_order(pieces: Tensor, order: Tensor) -> Tensor:
    """Put piece ``order[i]`` into slot i: ``batch piece ...`` by ``batch slot``."""
    return pieces[torch.arange(len(pieces), device=pieces.device)[:, None], order]


def body_planes(record: Record, options: Options) -> NDArray[np.int64]:
    """List the slices of a scan that show enough of a body."""
    return planes_with(record, BODY_PIXELS, options.least_body * math.prod(record.space[:2]))


def is_axial(record: Record) -> Tensor:
    """Tell whether the first axis of a slice goes to the right, and the second to the front."""
    return torch.tensor(record.dims == 3 or record.placed)


def modalities(record: Record) -> list[str]:
    """Name each modality of a scan; without names, or with another number of them, empty words."""
    names = [name.strip() for name in record.modality.split(";")]
    return names if len(names) == record.channels else [""] * record.channels


def holds(name: str, record: Record) -> bool:
    """Tell whether a scan has a modality of this name."""
    return name in modalities(record)
