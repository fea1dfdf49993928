"""Re-colorisation of endoscopic video: give a grey frame its colours back (Ross et al., IJCARS 2018).

A frame is taken apart into lightness L and colour ab.  A generator G, the network that is carried to the task, sees L
alone and paints ab; a critic D sees L with either colour and says, patch by patch, whether it is the true one:

    critic:     (BCE(D(L, ab), 1) + BCE(D(L, stop(G(L))), 0)) / 2
    generator:  BCE(D(L, G(L)), 1) + weight * mean |G(L) - ab|     over the pixels that the endoscope sees

Tissue is red and yellow, instruments are grey: who knows the colours recognises them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Generator, Tensor, nn

from unlabeled.data.sampling import draw_start
from unlabeled.data.scan import Scan, Unit
from unlabeled.data.store import Record
from unlabeled.errors import OptionError, ScanError
from unlabeled.losses.adversarial import convince, tell_apart
from unlabeled.losses.colour import colour_scores
from unlabeled.losses.restoration import masked_error
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
from unlabeled.nn.critics import PatchCritic, standing_still
from unlabeled.nn.decoders import build_decoder
from unlabeled.nn.encoders import Encoder
from unlabeled.nn.schedules import Schedule, linear_end
from unlabeled.options import Count, NonNegative, Positive, Probability
from unlabeled.transforms.colour import (
    HUNDREDTHS,
    INSIDE,
    LAB,
    LIGHTEST,
    MOST_COLOUR,
    KeepLab,
    lab_to_rgb,
    require_chroma,
)
from unlabeled.transforms.rigid import Mirror

BETAS = (0.5, 0.999)  # of Adam (conditional GANs, unconfirmed for this paper)


@dataclass(frozen=True, kw_only=True)
class Options(SharedOptions):
    """Defaults of common conditional GANs; the paper's own values are unconfirmed, and there is no published code.

    Parameters
    ----------
    patch_size
        Rows and columns that the networks see [pixel].
    frame_size
        What the shorter side of a frame is resized to [pixel]; larger than `patch_size`, 286 say, it leaves room for
        `crop` to choose from (ours).
    crop
        Where a patch is cut: the middle of the frame, or anywhere (ours).
    batch_size
        Frames a step (ours).
    lr
        Learning rate of generator and critic; constant, then linear to 0 over the second half.
    weight
        Of the absolute error of the colours beside the adversarial term.
    adversarial
        Weight of the adversarial term; 0 leaves the critic out and colours by the absolute error alone (ours).
    critic_lr
        Learning rate of the critic; without it, that of the generator.
    critic_width, critic_layers
        Channels of the critic's first convolution, and how many follow before the last.
    p_flip
        Probability of mirroring a frame left and right, and of mirroring it up and down (ours).
    every_frame
        Take every so many-th frame of a video only, in the order of their names: neighbours are nearly the same (ours).
    least_chroma
        Mean of sqrt(a^2 + b^2) below which a frame counts as grey and is left out (ours).
    """

    patch_size: tuple[Count, ...] = (256, 256)
    frame_size: Count = 256
    crop: Literal["centre", "random"] = "centre"
    batch_size: Count = 8
    lr: Positive = 2e-4
    weight: NonNegative = 100.0
    adversarial: NonNegative = 1.0
    critic_lr: Positive | None = None
    critic_width: Count = 64
    critic_layers: Count = 3
    p_flip: Probability = 0.5
    every_frame: Count = 1
    least_chroma: NonNegative = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if max(self.patch_size[:2]) > self.frame_size:
            edges = " ".join(map(str, self.patch_size[:2]))
            raise OptionError(
                f"--patch-size {edges} is larger than a frame's shorter side of {self.frame_size}",
                f"Give --frame-size {max(self.patch_size[:2])}.",
            )
        if self.weight == self.adversarial == 0:
            raise OptionError("--weight and --adversarial are both 0", "Give --weight 100.")


class Sample(NamedTuple):
    """A frame taken apart."""

    lightness: Tensor  # *batch 1 rows columns, in [0, 1]
    colour: Tensor  # *batch 2 rows columns, a and b in [-1, 1]
    inside: Tensor  # *batch 1 rows columns: where the endoscope sees something


class EndoscopicRecolorization(Method):
    """A generator paints a grey frame, and a critic has to be convinced of the colours."""

    needs: ClassVar[Needs] = Needs(unit=Unit.FRAME, dims=(2,), colour=True)
    options_class: ClassVar[type[SharedOptions]] = Options
    monitor: ClassVar[Monitor] = Monitor("error", "lower", chance="constant")
    in_channels: ClassVar[int | None] = 1  # lightness alone

    options: Options

    def __init__(self, options: Options, encoder: Encoder) -> None:
        super().__init__(options, encoder)
        self.decoder = build_decoder(encoder, out_channels=2)
        self.critic = PatchCritic(3, width=options.critic_width, layers=options.critic_layers)
        self.size = options.patch_size[:2]

    @classmethod
    def preparation(cls, options: Any) -> Callable[[Scan], Scan]:
        """Keep every frame as L*a*b*."""
        return KeepLab(options.frame_size)

    @classmethod
    def require(cls, record: Record, options: Any) -> None:
        """Refuse frames that hold no colour, or show nothing."""
        lightness, *colour = torch.from_numpy(record.extras[LAB].whole()).float() / HUNDREDTHS
        require_chroma(torch.stack(colour), options.least_chroma)
        if float(lightness.mean()) < 5:
            raise ScanError("is nearly black", "Leave out frames that show nothing.")

    def phases(self) -> tuple[Phase, ...]:
        """Train both at once; without the adversarial term there is no critic to train."""
        trains: dict[str, Iterable[nn.Module]] = {"generator": [self.encoder, self.decoder]}
        if self.options.adversarial:
            trains = {"critic": [self.critic], **trains}
        feed = Feed(self.views, self.options.batch_size, self.needs.unit, group=self.thin_out)
        return (Phase("pretrain", self.step, trains, {"frames": feed}),)

    def thin_out(self, records: Sequence[Record]) -> list[Record]:
        """Take every so many-th frame of each video."""
        place: dict[str, int] = {}
        taken = []
        for record in sorted(records, key=lambda record: (record.subject, record.source.name)):
            number = place[record.subject] = place.get(record.subject, -1) + 1
            if number % self.options.every_frame == 0:
                taken.append(record)
        return taken

    def views(self, record: Record, rng: Generator) -> Sample:
        """Cut a patch, mirror it, and take lightness and colour apart."""
        lab, mask = record.extras[LAB], record.extras[INSIDE]
        space = lab.shape[1:]
        start = draw_start(space, self.size, rng)
        if self.options.crop == "centre":
            start = tuple((edge - cut) // 2 for edge, cut in zip(space, self.size, strict=True))
        parts = [torch.from_numpy(each.read(start, self.size)).float() for each in (lab, mask)]
        whole = torch.cat([parts[0] / HUNDREDTHS, parts[1]])
        for axis in (0, 1):
            whole = Mirror(self.options.p_flip, axis)(whole, rng)
        colour = (whole[1:3] / MOST_COLOUR).clamp(-1, 1)
        return Sample(whole[:1] / LIGHTEST, colour, whole[3:] > 0)

    def paint(self, lightness: Tensor) -> Tensor:
        """Give a and b, in (-1, 1), of what is seen in grey."""
        painted: Tensor = self.decoder(self.encoder(lightness), lightness.shape[2:])
        return torch.tanh(painted.float())

    def judge(self, lightness: Tensor, colour: Tensor) -> Tensor:
        """Give the critic's logits of the colours being true, for each patch."""
        verdict: Tensor = self.critic(torch.cat([lightness, colour], dim=1))
        return verdict

    def step(self, batch: Sample) -> Iterator[Update]:
        """Let the critic learn from true and painted colours, then the generator from critic and truth."""
        lightness, colour, inside = batch
        painted = self.paint(lightness)
        convincing = painted.new_zeros(())
        if self.options.adversarial:
            real, made = self.judge(lightness, colour), self.judge(lightness, painted.detach())
            yield Update(tell_apart(real, made), of="critic")
            with standing_still(self.critic):
                convincing = convince(self.judge(lightness, painted))
        error = masked_error(painted, colour, inside.expand_as(colour), power=1)
        loss = self.options.adversarial * convincing + self.options.weight * error
        yield Update(loss, of="generator", shows={"error": error * MOST_COLOUR})

    def optimiser(
        self, name: str, modules: Iterable[nn.Module]
    ) -> tuple[torch.optim.Optimizer, Schedule]:
        """Make Adam, of a rate of its own for the critic."""
        lr = self.options.critic_lr if name == "critic" else None
        made = torch.optim.Adam(parameters(modules), lr=lr or self.options.lr, betas=BETAS)
        return made, linear_end()

    def score(self, batch: Sample) -> dict[str, Tensor]:
        """Measure the mean absolute error of a and b, beside two ways of knowing nothing, and how colourful it is."""
        painted = self.paint(batch.lightness)
        return colour_scores(painted, batch.colour, batch.inside, MOST_COLOUR)

    def preview(self, batch: Sample) -> dict[str, Tensor]:
        """Show the grey frame, the colours that were painted, and the true ones."""
        lightness, colour, _ = batch
        grey = torch.zeros_like(colour)
        shown = {"seen": grey, "painted": self.paint(lightness), "true": colour}
        return {
            name: lab_to_rgb(torch.cat([lightness * LIGHTEST, each * MOST_COLOUR], dim=1))
            for name, each in shown.items()
        }

    def carries(self) -> dict[str, nn.Module]:
        """Carry the generator: the encoder to any task, the decoder to segmentation; never the critic."""
        return {"encoder": self.encoder, "decoder": self.decoder}
