"""The one abstraction: a method owns its networks and yields its updates; one loop performs them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

import torch
from torch import Generator, Tensor, nn

from unlabeled.data.intensity import IntensityRule
from unlabeled.data.scan import Scan, Source, Unit
from unlabeled.data.store import Record
from unlabeled.errors import OptionError, ScanError
from unlabeled.nn.encoders import Encoder
from unlabeled.nn.schedules import Schedule, constant
from unlabeled.options import Between, Count, Options, Positive, Whole


@dataclass(frozen=True, kw_only=True)
class SharedOptions(Options):
    """Options that every pretraining shares; a method overrides the defaults with its paper's.

    Parameters
    ----------
    epochs
        Passes over the scans.
    steps
        Stop after so many optimiser rounds, however many epochs that is.
    batch_size
        Samples a step, over all devices.
    samples_per_scan
        Samples that each scan gives an epoch.
    lr
        Learning rate at the start.
    encoder
        Network that is carried to the task; `unlabeled doctor` lists the names.
    patch_size
        Edge lengths of a patch [voxel].
    dims
        Axes of space of the networks; without it, what the scans have.
    spacing
        Resample to these voxel edge lengths [mm]; without it, each scan keeps its own.
    modality
        What scans are whose files do not say (NIfTI knows none); CT means that intensities are in HU.
    seed
        Random start.
    """

    epochs: Count = 100
    steps: Count | None = None
    batch_size: Count = 8
    samples_per_scan: Count = 1
    lr: Positive = 1e-3
    encoder: str = "unet"
    patch_size: tuple[Count, ...] = (64, 64, 64)
    dims: Literal[2, 3] | None = None
    spacing: tuple[Positive, ...] | None = None
    modality: str = ""
    seed: Whole = 0


@dataclass(frozen=True)
class Update:
    """One optimiser step: asked for with ``yield``; when the body goes on, the weights have moved.

    Parameters
    ----------
    loss
        Scalar to minimise.
    of
        Name of the optimiser, a key of its phase's `trains`.
    shows
        Further scalars for the log.
    clip
        Largest norm of the gradient; without it, as it is.
    """

    loss: Tensor
    of: str = "main"
    shows: Mapping[str, Tensor] = field(default_factory=dict)
    clip: float | None = None


@dataclass(frozen=True)
class Feed:
    """One stream of samples: which records, what one sample is made of, how many a batch holds.

    Parameters
    ----------
    views
        Makes a sample of what `group` lists: a record unless it says otherwise.
    batch_size
        Samples of a batch, over all devices.
    unit
        What one sample is made of, for people.
    accepts
        Which records belong to the stream.
    group
        Lists what single samples are made of, from all accepted records: pairs, the scans of a study, a record beside
        all others to draw a partner from; without it, each record by itself.  Deterministic.
    pace
        Tells an item what share of the phase is over, from 0 at its first step to 1 at its last, and gives the item
        back, for what changes as training goes on (a curriculum).  Held-out items are not told.
    together
        Makes a whole batch, stacked, of as many items and generators, where that is cheaper than sample by sample: number
        by number what `views` gives, so a sample still depends on its place alone.  Without it, `views` are stacked.
    scored
        Whether a score needs held-out samples of it.  Where it does not, and nothing held out belongs to the stream, held-out
        batches come without it; with no stream at all, nothing is scored.
    """

    views: Callable[[Any, Generator], Any]
    batch_size: int
    unit: Unit = Unit.VOLUME
    accepts: Callable[[Record], bool] = lambda record: True
    group: Callable[[Sequence[Record]], Sequence[Any]] = list
    pace: Callable[[Any, float], Any] | None = None
    scored: bool = True
    together: Callable[[Sequence[Any], Sequence[Generator]], Any] | None = None


@dataclass(frozen=True)
class Monitor:
    """The pretext score that chooses the best checkpoint: a key of `Method.score` and its direction."""

    name: str
    better: Literal["lower", "higher"]
    chance: str | None = None


@dataclass(frozen=True)
class Phase:
    """One stage of a method: its algorithm box, the modules each optimiser moves, and its streams.

    Parameters
    ----------
    name
        Shown in the log.
    step
        The algorithm box; receives a batch of the single feed, or a dict of batches by feed name.
    trains
        Modules by optimiser name.
    feeds
        Streams by name; each yields its own batches.
    share
        Part of the epochs that the phase gets, relative to the other phases.
    before, after
        Called with the training records before the phase starts and when it has ended, to make what depends on the
        weights so far; what they make is kept in buffers, for a run that goes on does not call them again.
    score, preview, monitor
        The phase's own, where its batches are unlike those of the others; without them, the method's.
    """

    name: str
    step: Callable[[Any], Iterator[Update]]
    trains: Mapping[str, Iterable[nn.Module]]
    feeds: Mapping[str, Feed]
    share: float = 1.0
    before: Callable[[Sequence[Record]], None] | None = None
    after: Callable[[Sequence[Record]], None] | None = None
    score: Callable[[Any], dict[str, Tensor]] | None = None
    preview: Callable[[Any], dict[str, Tensor]] | None = None
    monitor: Monitor | None = None


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What a method asks of the data, checked before training.

    Parameters
    ----------
    unit
        What one sample is made of.
    dims
        Axes of space that the method can work on.
    metadata
        Columns that every scan must have: ``spacing``, ``affine``, ``report``, ``level``, ``boxes``, ``time``,
        ``mask``, ``label``, ``target``, ``position``.
    some
        Columns that at least one scan must have.
    volumes
        Whether every scan must be a volume, though the networks see slices of it.
    channels
        Fewest registered modalities (or colour channels) of a scan.
    some_channels
        Fewest channels of at least one scan.
    colour
        Whether the scans must be in colour.
    scans_per_subject
        Fewest scans of one subject.
    subjects
        Fewest subjects.
    held_out
        Fewest subjects that the pretext score needs: two where it compares subjects.
    """

    unit: Unit
    dims: tuple[int, ...]
    metadata: tuple[str, ...] = ()
    some: tuple[str, ...] = ()
    volumes: bool = False
    channels: Annotated[int, Between(1)] = 1
    some_channels: Annotated[int, Between(1)] = 1
    colour: bool = False
    scans_per_subject: int = 1
    subjects: int = 1
    held_out: int = 1


@dataclass(frozen=True, kw_only=True)
class Product:
    """What a method makes of one scan by itself, without any label: what `unlabeled predict` writes.

    Parameters
    ----------
    images
        By name, ``channel *space`` on the record's grid, in the scan's own intensity unit: written on the scan's own
        grid.
    masks
        By name, whole numbers ``*space`` on the record's grid, 0 where nothing is: written on the scan's own grid.
    pictures
        By name, ``1|3 rows columns`` in [0, 1]: written as PNG.
    points
        By name, position ``(axes,)`` on the record's grid [voxel]: written in mm where the geometry is known.
    values
        Numbers and words by name: columns of ``predictions.csv``.
    """

    images: Mapping[str, Tensor] = field(default_factory=dict)
    masks: Mapping[str, Tensor] = field(default_factory=dict)
    pictures: Mapping[str, Tensor] = field(default_factory=dict)
    points: Mapping[str, Tensor] = field(default_factory=dict)
    values: Mapping[str, float | str] = field(default_factory=dict)


class Method(nn.Module, ABC):
    """A self-supervised method; see docs/design.md for a tour.

    Parameters
    ----------
    options
        The method's own options class.
    encoder
        The network that is carried to the task, already built for the data's dimensions and channels.
    """

    needs: ClassVar[Needs]
    options_class: ClassVar[type[SharedOptions]]
    monitor: ClassVar[Monitor]
    keeps: Literal["best", "last"] = "last"  # with whose weights a phase ends
    quirks: ClassVar[
        Mapping[str, str]
    ] = {}  # what fidelity="official" reproduces and "clean" mends
    makes: ClassVar[str] = ""  # what `product` gives, in words; empty where it gives nothing
    compares: ClassVar[bool] = (
        False  # whether `product` says how right it is where scans have masks
    )
    in_channels: ClassVar[int | None] = None  # of the encoder; None: as many as the scans have
    holds_out: ClassVar[Literal["subject", "scan", "section"]] = (
        "subject"  # or scans of one, or studies
    )

    options: SharedOptions
    encoder: Encoder

    def __init__(self, options: SharedOptions, encoder: Encoder) -> None:
        super().__init__()
        self.options = options
        self.encoder = encoder

    @classmethod
    def intensity(cls, options: SharedOptions) -> IntensityRule:
        """Say how intensities enter the networks; the default is [0, 1] (CT by a fixed window)."""
        return IntensityRule()

    @classmethod
    def preparation(cls, options: SharedOptions) -> Callable[[Scan], Scan] | None:
        """Say how each scan is prepared once, before the store keeps it: a frozen dataclass called with the scan.

        Deterministic; its ``repr``, with every option that it reads, names the preparation in the store; what it adds
        to `Scan.extras` (superpixels, a body mask) is there as `Record.extras`.
        """
        return None

    @classmethod
    def needs_with(cls, options: Any) -> Needs:
        """Say what it asks of the data under these options; `needs`, which lists and checks show, is what is usual.

        What `require` refuses in words of its own need not be in it.
        """
        return cls.needs

    @classmethod
    def require(cls, record: Record, options: Any) -> None:
        """Refuse one scan that `needs` lets pass and these options cannot use: it is left out and named, with why.

        Raises
        ------
        ScanError
            The fact without the scan's name, and the remedy.
        """

    @classmethod
    def refuse(cls, options: Any, records: Sequence[Record]) -> Mapping[str, ScanError]:
        """Refuse scans that lack others beside them (a study without one of its planes), by name: they are left out.

        Called with all scans that `require` lets pass; refusing twice changes nothing.
        """
        return {}

    @classmethod
    def role(cls, source: Source) -> str:
        """Say what a scan is among those of its study, where it matters: an estimate lends scans of one role alone."""
        return ""

    @classmethod
    def learns_from(cls, options: Any) -> tuple[str, ...]:
        """Name the splits of a manifest that it learns from: ``test`` by an option of its own alone, off by default."""
        return ("train",)

    @classmethod
    def suit(cls, options: Any, records: Sequence[Record]) -> Any:
        """Suit the options to the prepared scans before the networks are built, or refuse scans that `needs` lets pass.

        Suiting twice changes nothing: a run that goes on suits the options that it kept.
        """
        return options

    @abstractmethod
    def views(self, record: Record, rng: Generator) -> Any:
        """Make one training sample on the CPU: a NamedTuple of tensors."""

    @abstractmethod
    def step(self, batch: Any) -> Iterator[Update]:
        """Run the algorithm box on one batch."""

    def phases(self) -> tuple[Phase, ...]:
        """List the stages; by default a single one that trains every parameter."""
        feed = Feed(self.views, self.options.batch_size, self.needs.unit)
        return (Phase("pretrain", self.step, {"main": [self]}, {"scans": feed}),)

    def optimiser(
        self, name: str, modules: Iterable[nn.Module]
    ) -> tuple[torch.optim.Optimizer, Schedule]:
        """Make the optimiser of one name and its schedule; by default AdamW with a constant rate."""
        return torch.optim.AdamW(parameters(modules), lr=self.options.lr), constant

    @abstractmethod
    def score(self, batch: Any) -> dict[str, Tensor]:
        """Measure the pretext task on held-out subjects; means over the batch, with the chance level."""

    @abstractmethod
    def preview(self, batch: Any) -> dict[str, Tensor]:
        """Show the pretext task: captions and ``batch channel *space`` images in [0, 1], left to right."""

    def product(self, record: Record) -> Product:
        """Make of one scan what `makes` says, in evaluation mode and without gradients, on the networks' device."""
        raise NotImplementedError(f"{type(self).__name__} makes nothing of a scan by itself")

    def notes(self) -> tuple[str, ...]:
        """Say in sentences what a person should know of this run: what stands in for weights that were not given."""
        return ()

    def carries(self) -> dict[str, nn.Module]:
        """Name what is carried to the task: ``encoder``, and ``decoder`` where the paper does."""
        return {"encoder": self.encoder}


def parameters(modules: Iterable[nn.Module]) -> list[nn.Parameter]:
    """Collect the parameters that require gradients, each once, in a stable order."""
    seen: dict[int, nn.Parameter] = {}
    for module in modules:
        for parameter in module.parameters():
            if parameter.requires_grad:
                seen.setdefault(id(parameter), parameter)
    return list(seen.values())


def patch_for(encoder: Encoder, edges: Sequence[int]) -> tuple[int, ...]:
    """Give a patch one edge for each axis of the networks.

    Raises
    ------
    OptionError
        There are too few.
    """
    patch = tuple(edges[: encoder.dims])
    if len(patch) < encoder.dims:
        raise OptionError(
            f"--patch-size has {len(patch)} edges, and the scans have {encoder.dims} axes",
            f"Give --patch-size {' '.join(map(str, (patch * 3)[: encoder.dims]))}.",
        )
    return patch
