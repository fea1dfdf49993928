"""Surrogate supervision: labels that images give themselves, for the network of the later task (Tajbakhsh et al., ISBI 2019).

Before a network learns from few labels, it learns from many images without any, by one of three surrogate tasks:

- rotation: an image comes in all K quarter turns, and a linear layer on the encoder says which; cross entropy;
- reconstruction: encoder and decoder give an image back; mean squared error, and a Wasserstein critic to be convinced;
- colourisation: encoder and decoder paint a grey picture; absolute error, and a patch critic to be convinced.

The paper pairs one task with one target network; that several are learnt at once, as a weighted sum, is ours.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal, cast

import torch
from torch import Generator, Tensor, nn

from unlabeled.data.intensity import IntensityRule
from unlabeled.data.sampling import draw_start, patch_size
from unlabeled.data.scan import Unit
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
from unlabeled.methods._surrogates import (
    Colourisation,
    Reconstruction,
    Rotation,
    Sample,
    Surrogate,
    apart,
    require_room,
)
from unlabeled.nn.critics import ImageCritic, PatchCritic
from unlabeled.nn.encoders import Encoder
from unlabeled.nn.schedules import Schedule, constant
from unlabeled.options import Between, Count, NonNegative, Positive, Probability
from unlabeled.transforms.colour import MOST_COLOUR, require_chroma
from unlabeled.transforms.masking import InPaint
from unlabeled.transforms.quarters import QuarterTurns, giveaway
from unlabeled.transforms.shrinking import KeepShrunk, shown_patch, shown_space

Task = Literal["rotation", "reconstruction", "colourisation"]
TASKS: tuple[Task, ...] = ("rotation", "reconstruction", "colourisation")
PICTURE = 8 / 7  # shorter side of a picture over the patch, as 256 pixels go with 224 (ours)
ADAM = {  # rate and decay rates of critics, and of what they judge (WGAN-GP; pix2pix; unconfirmed for this paper)
    "reconstruction critic": (1e-4, (0.0, 0.9)),
    "colour critic": (2e-4, (0.5, 0.999)),
}


@dataclass(frozen=True, kw_only=True)
class Options(SharedOptions):
    """Defaults are ours unless another source is named: the paper's numbers are unconfirmed, and no code was published.

    Parameters
    ----------
    task
        Surrogate task (paper: one for each target network), or multi-task: all of them at once (ours).
    rotation_weight, reconstruction_weight, colourisation_weight
        Weights of the losses in multi-task; 0 leaves a task out.
    epochs
        Passes over the scans; `patience` ends the training before.
    batch_size
        Scans a step; rotation sees each in all its turns.
    lr
        Learning rate of Adam, of all but the critics; constant.
    patience
        Scores without improvement after which the training ends.
    encoder
        Network that is carried to the task, and should be that task's.
    patch_size
        Edge lengths of a patch [voxel]; pictures and slices take the first two, for which 224 224 is usual.
    picture_size
        What the shorter side of larger pictures is shrunk to [pixel]; without it 8/7 of the patch, as 256 goes with 224.
    ct_window
        Window of CT scans [HU], for the chest.
    turns
        Rotation: 4 quarter turns in the plane of the first two axes (axial in volumes), or in volumes 10 about all axes;
        auto takes 10 for cubes whose scans have voxels of like edges, as unequal ones would tell the turn.
    circle
        Rotation: show only the inscribed circle (cylinder, ball), so that borders and corners tell nothing.
    links
        Reconstruction: decode with links as the segmentation network does; needs `p_paint`, or the input is copied.
    p_paint
        Reconstruction: probability that boxes of what is seen are painted over with noise.
    adversarial
        Reconstruction: weight of the critic's verdict, over the root of the patch's size, beside the mean squared error, so
        that both count alike in patches of any size; 0 leaves the critic out.
    critic_steps
        Reconstruction: updates of the critic for one of the encoder (WGAN-GP), all on the batch at hand (ours).
    slope
        Reconstruction: bound the critic's slope by a gradient penalty (WGAN-GP), or by clipping weights to 0.01 (WGAN).
    penalty
        Reconstruction: weight of the gradient penalty (WGAN-GP).
    colour_weight
        Colourisation: weight of the absolute error of a* and b* (pix2pix).
    colour_adversarial
        Colourisation: weight of the critic's verdict (pix2pix); 0 leaves the critic out.
    least_chroma
        Colourisation: mean of sqrt(a^2 + b^2) below which a picture counts as grey and is left out.
    critic_width, critic_layers
        Channels of a critic's first convolution, and how many halve the image; that of colours has one less.
    critic_lr
        Learning rate of critics, Adam; without it 0.0001 for reconstruction (WGAN-GP), 0.0002 for colours (pix2pix).
    """

    task: Literal["rotation", "reconstruction", "colourisation", "multi-task"] = "rotation"
    rotation_weight: NonNegative = 1.0
    reconstruction_weight: NonNegative = 1.0
    colourisation_weight: NonNegative = 1.0
    epochs: Count = 200
    batch_size: Count = 8
    lr: Positive = 1e-3
    patience: Count = 20
    encoder: str = "resnet18"
    patch_size: tuple[Count, ...] = (64, 64, 64)
    picture_size: Count | None = None
    ct_window: tuple[float, float] = (-1000.0, 400.0)
    turns: Literal["auto", "plane", "all-axes"] = "auto"
    circle: bool = False
    links: bool = False
    p_paint: Probability = 0.0
    adversarial: NonNegative = 0.01
    critic_steps: Count = 5
    slope: Literal["penalty", "clipping"] = "penalty"
    penalty: NonNegative = 10.0
    colour_weight: NonNegative = 100.0
    colour_adversarial: NonNegative = 1.0
    least_chroma: NonNegative = 2.0
    critic_width: Count = 32
    critic_layers: Annotated[int, Between(1, 8)] = 4
    critic_lr: Positive | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.weights:
            raise OptionError("all three weights of multi-task are 0", "Give --rotation-weight 1.")
        if "reconstruction" in self.weights and self.links and not self.p_paint:
            raise OptionError(
                "with --links the decoder copies what is seen, and nothing is learnt",
                "Give --p-paint 0.9 with it, or --no-links.",
            )
        if "colourisation" in self.weights and self.colour_weight == self.colour_adversarial == 0:
            raise OptionError(
                "--colour-weight and --colour-adversarial are both 0", "Give --colour-weight 100."
            )
        longest = max(self.patch_size[:2], default=1)
        if self.picture_size is not None and self.picture_size < longest:
            raise OptionError(
                f"--picture-size {self.picture_size} is smaller than a patch of {longest}",
                f"Give --picture-size {round(PICTURE * longest)}.",
            )
        low, high = self.ct_window
        if low >= high:
            raise OptionError(
                f"--ct-window goes from {low} to {high}, which is empty",
                "Give --ct-window -1000 400.",
            )

    @property
    def weights(self) -> dict[Task, float]:
        """Weight of each task that is learnt."""
        asked = (self.rotation_weight, self.reconstruction_weight, self.colourisation_weight)
        if self.task == "multi-task":
            return {task: weight for task, weight in zip(TASKS, asked, strict=True) if weight}
        return {self.task: 1.0}

    def quarter_turns(self, dims: int) -> QuarterTurns:
        """Say which turns there are of patches with `dims` axes; scans that forbid some have been heard (`suit`)."""
        cube = len(set(self.patch_size[:dims])) == 1
        if self.turns == "all-axes" or (self.turns == "auto" and cube):
            return QuarterTurns.about_all_axes(dims)
        return QuarterTurns(dims)


class SurrogateSupervision(Method):
    """An encoder learns rotation, reconstruction or colourisation, or a weighted sum of them."""

    needs: ClassVar[Needs] = Needs(unit=Unit.SLICE, dims=(2, 3))
    options_class: ClassVar[type[SharedOptions]] = Options
    monitor: ClassVar[Monitor] = Monitor("unsolved", "lower", chance="chance")
    keeps = "best"

    options: Options

    def __init__(self, options: Options, encoder: Encoder) -> None:
        super().__init__(options, encoder)
        self.patch = patch_for(encoder, options.patch_size)
        encoder.check(self.patch)
        self.weights = options.weights
        self.paint = InPaint(options.p_paint)
        self.tasks = nn.ModuleDict({task: self._build(task) for task in self.weights})

    @classmethod
    def intensity(cls, options: SharedOptions) -> IntensityRule:
        """Scale to [0, 1]; CT from a window of the chest; the three colours of a picture alike."""
        window = options.ct_window if isinstance(options, Options) else Options.ct_window
        return IntensityRule(ct=window)

    @classmethod
    def preparation(cls, options: Any) -> KeepShrunk:
        """Keep large pictures small, so that a patch shows most of one."""
        longest = max(options.patch_size[:2], default=1)
        return KeepShrunk(options.picture_size or round(PICTURE * longest))

    @classmethod
    def require(cls, record: Record, options: Any) -> None:
        """Refuse a scan that gives a turn away, by its padding or its spacing, and one without colour to paint."""
        dims = options.dims or record.dims
        if "rotation" in options.weights:
            turns = QuarterTurns(dims) if options.turns == "auto" else options.quarter_turns(dims)
            fault = giveaway(turns, options.patch_size, shown_space(record), record.spacing)
            if fault is not None:
                raise fault
        if "colourisation" in options.weights:
            other = (
                "--colourisation-weight 0" if options.task == "multi-task" else "--task rotation"
            )
            if not record.colour or dims != 2 or record.dims != 2:
                raise ScanError("is no picture in colour", f"Give colour pictures, or {other}.")
            space = shown_space(record)
            _, colour = apart(shown_patch(record, (0,) * len(space), space)[None])
            require_chroma(colour[0] * MOST_COLOUR, options.least_chroma)

    @classmethod
    def suit(cls, options: Any, records: Sequence[Record]) -> Any:
        """Settle which turns: those about all axes only where no scan's voxels would tell them."""
        if options.turns != "auto" or "rotation" not in options.weights:
            return options
        dims = options.dims or records[0].dims
        turns = options.quarter_turns(dims)
        told = (
            giveaway(turns, options.patch_size, shown_space(record), record.spacing)
            for record in records
        )
        one = len(turns.planes) == 1 or any(fault is not None for fault in told)
        return replace(options, turns="plane" if one else "all-axes")

    def notes(self) -> tuple[str, ...]:
        """Name the task and the network: which of them the paper pairs is unconfirmed, so that every result says it."""
        turns = self.options.quarter_turns(self.encoder.dims).count
        told = [f"{task} in {turns} turns" if task == "rotation" else task for task in self.weights]
        return (f"the surrogate task is {' and '.join(told)}, of the network {self.encoder.name}",)

    def phases(self) -> tuple[Phase, ...]:
        """Train the encoder with the layers of its tasks, and each critic by itself."""
        trains = {name: [critic] for name, critic in self._critics().items()}
        trains["main"] = [self.encoder, *(task.layers for task in self._tasks().values())]
        feed = Feed(self.views, self.options.batch_size, self.needs.unit)
        return (Phase("pretrain", self.step, trains, {"scans": feed}),)

    def views(self, record: Record, rng: Generator) -> Sample:
        """Cut a patch; turning and greying are no chance and done in the step.  No flip: it would hide what is up."""
        size = patch_size(record, self.patch)
        start = draw_start(shown_space(record), size, rng)
        image = shown_patch(record, start, size).reshape(-1, *self.patch)
        spoils = "reconstruction" in self.weights and self.options.p_paint > 0
        return Sample(image, self.paint(image, rng) if spoils else image)

    def step(self, batch: Sample) -> Iterator[Update]:
        """Let every task teach its critic, then minimise the weighted sum of their losses."""
        total, shows = torch.zeros((), device=batch.image.device), dict[str, Tensor]()
        for name, task in self._tasks().items():
            lesson = yield from task.learn(self.encoder, batch)
            total = total + self.weights[name] * lesson.loss
            shows.update(lesson.shows)
        yield Update(total, shows=shows)

    def optimiser(
        self, name: str, modules: Iterable[nn.Module]
    ) -> tuple[torch.optim.Optimizer, Schedule]:
        """Make Adam with a constant rate; where a single critic judges, both sides have its decay rates."""
        lr, betas = ADAM.get(name, (self.options.lr, (0.9, 0.999)))
        critics = list(self._critics())
        if name in ADAM:
            lr = self.options.critic_lr or lr
        elif len(self.weights) == len(critics) == 1:
            betas = ADAM[critics[0]][1]
        return torch.optim.Adam(parameters(modules), lr=lr, betas=betas), constant

    def score(self, batch: Sample) -> dict[str, Tensor]:
        """Measure every task; ``unsolved`` is the mean of their errors, each over that of knowing nothing (``chance``, 1)."""
        scores = [task.score(self.encoder, batch) for task in self._tasks().values()]
        unsolved = torch.stack([score.unsolved for score in scores]).mean()
        figures = {name: value for score in scores for name, value in score.figures.items()}
        return {"unsolved": unsolved, "chance": torch.ones_like(unsolved), **figures}

    def preview(self, batch: Sample) -> dict[str, Tensor]:
        """Show every task."""
        shown: dict[str, Tensor] = {}
        for task in self._tasks().values():
            shown |= task.preview(self.encoder, batch)
        return shown

    def carries(self) -> dict[str, nn.Module]:
        """Carry the encoder, and the decoder with links where there is one: of colours, or of the reconstruction."""
        linked = [
            task.layers
            for name, task in self._tasks().items()
            if name == "colourisation" or (name == "reconstruction" and self.options.links)
        ]
        return {"encoder": self.encoder} | ({"decoder": linked[-1]} if linked else {})

    def _build(self, task: Task) -> Surrogate:
        """Build a task with fresh layers, and refuse patches that do not suit it."""
        options, encoder = self.options, self.encoder
        width, layers, dims = options.critic_width, options.critic_layers, encoder.dims
        if task == "rotation":
            turns = options.quarter_turns(dims)
            turns.check(self.patch)
            return Rotation(encoder, turns, self.patch, circle=options.circle)
        if task == "reconstruction":
            if options.adversarial:
                require_room(self.patch, layers, lambda count: 2**count)
            return Reconstruction(
                encoder,
                links=options.links,
                adversarial=options.adversarial,
                critic_steps=options.critic_steps,
                penalty=options.penalty if options.slope == "penalty" else None,
                critic=lambda: ImageCritic(
                    encoder.in_channels, dims=dims, width=width, layers=layers
                ),
            )
        if dims != 2 or encoder.in_channels < 3:
            raise OptionError(
                f"colourisation is of pictures in colour, and the network takes {encoder.in_channels} channels in {dims}D",
                "Give --task rotation, or pictures in colour and --dims 2.",
            )
        if options.colour_adversarial:
            require_room(self.patch, layers, lambda count: 3 * 2 ** max(1, count - 1))
        return Colourisation(
            encoder,
            weight=options.colour_weight,
            adversarial=options.colour_adversarial,
            critic=lambda: PatchCritic(3, width=width, layers=max(1, layers - 1)),
        )

    def _tasks(self) -> dict[Task, Surrogate]:
        return {task: cast(Surrogate, self.tasks[task]) for task in self.weights}

    def _critics(self) -> dict[str, nn.Module]:
        tasks = self._tasks().values()
        return {task.critic_name: task.critic for task in tasks if task.critic is not None}
