"""AF-SEG: learn to segment from images made for coarse labels (Yu, Dong et al., ISBI 2020).

A classical method gives an image x a coarse label C, wrong in places.  Instead of trusting C on x, an image is made that
C is right for: a background B without objects, and on it an object of exactly the shape C,

    O = G(C, z),    F = C O + (1 - C) B,    B = x with the pixels M taken away and filled from around,

M the lambda |C| pixels that a segmenter, trained on the coarse labels for a while, finds likeliest to be objects.  Then

    critic:     (BCE(D(x), 1) + BCE(D(stop F), 0)) / 2
    generator:  BCE(D(F), 1) + lambda_shape BCE(S(F), C)          D and S stand still
    segmenter:  BCE(S(stop F), C) + Dice(S(stop F), C) + lambda_weak BCE(S(x), C_x)

S is what is wanted: it segments images, and its layers are carried to a task.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from unlabeled.data.sampling import Pairing, draw_start, pair_scans
from unlabeled.data.scan import Unit
from unlabeled.data.scratch import Scratch
from unlabeled.data.store import Record
from unlabeled.errors import ScanError
from unlabeled.losses.adversarial import convince, tell_apart
from unlabeled.losses.restoration import masked_error
from unlabeled.losses.segmentation import dice, foreground_loss
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
from unlabeled.nn.critics import PatchCritic, standing_still
from unlabeled.nn.decoders import build_decoder
from unlabeled.nn.encoders import Encoder, build_encoder
from unlabeled.nn.foreground import evaluating, likelihood
from unlabeled.nn.schedules import Schedule, constant
from unlabeled.options import Between, Count, NonNegative, Positive, Whole
from unlabeled.rng import generator
from unlabeled.transforms.coarse import COARSE, CoarseLabel, find_segmenter
from unlabeled.transforms.filling import take_away, top_share, widen
from unlabeled.transforms.overlay import tinted
from unlabeled.transforms.turning import SquareTurn, turn_square

FACTORS = {"cells": 1.5, "vessels": 1.2}  # lambda (ours; the paper says that it exceeds 1)
MOST_MASKED = 0.7  # share of an image that may be taken away: beyond it there is no background to go by (ours)
BETAS = (
    0.5,
    0.999,
)  # of Adam for generator and critic (conditional GANs, unconfirmed for this paper)


@dataclass(frozen=True, kw_only=True)
class Options(SharedOptions):
    """Defaults are ours unless another source is named: the paper's values are unconfirmed, and no code is published.

    Parameters
    ----------
    coarse
        What finds the coarse labels: cells (smoothed, Otsu's threshold, opened, holes filled), vessels (multi-scale
        Frangi filter, threshold by hysteresis), or module:function, called with rows x columns in [0, 1], objects bright,
        which gives true where an object is.
    objects
        Whether objects are brighter than what surrounds them, darker, or whichever gives the smaller coarse label.
    channel
        Channel that the coarse label is found in, from 0; without it, the mean of all.
    mask_factor
        Lambda: times as many pixels as the coarse label has are taken away for the background (above 1: the paper);
        without it, 1.2 for vessels and 1.5 else.
    dilation
        How far beyond those pixels is taken away as well [pixel].
    shape_weight
        Lambda_shape: of the shape loss, which asks that the segmenter finds the coarse label in a made image.
    real_weight
        Of the absolute difference between made and real pixels within the coarse label; 0 leaves it out.
    weak_weight
        Lambda_weak: of the cross entropy with coarse labels on real images, at the start; it falls to 0 evenly.
    real_star
        Whether the critic sees the real object on the made background in place of the real image, so that seams tell it
        nothing (the figure's Real*; its meaning is inferred).
    noise
        Deviation of the noise added to made images before the segmenter sees them [of the image's range].
    warm_up
        Share of the training in which the segmenter learns from the coarse labels alone.
    adversarial_lr
        Learning rate of generator and critic (that of conditional GANs).
    critic_width, critic_layers
        Channels of the critic's first convolution, and how many follow before the last.
    patch_size
        Rows and columns of a patch [pixel]; images that are smaller are left out.
    samples_per_scan
        Patches that each image gives an epoch.
    lr
        Learning rate of the segmenter, of Adam.
    turns
        Whether patches are turned by quarters and flipped.
    """

    coarse: str = "cells"
    objects: Literal["bright", "dark", "rarer"] = "bright"
    channel: Whole | None = None
    mask_factor: Annotated[float, Between(1)] | None = None
    dilation: NonNegative = 2.0
    shape_weight: NonNegative = 1.0
    real_weight: NonNegative = 0.0
    weak_weight: NonNegative = 0.1
    real_star: bool = False
    noise: NonNegative = 0.05
    warm_up: Annotated[float, Between(0.01, 0.9)] = 0.2
    adversarial_lr: Positive = 2e-4
    critic_width: Count = 64
    critic_layers: Count = 3
    patch_size: tuple[Count, ...] = (256, 256)
    samples_per_scan: Count = 4
    lr: Positive = 1e-3
    turns: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        find_segmenter(self.coarse)

    @property
    def factor(self) -> float:
        """How many times as many pixels as the coarse label has are taken away."""
        return FACTORS.get(self.coarse, 1.5) if self.mask_factor is None else self.mask_factor


class Sample(NamedTuple):
    """A patch and its coarse label; ``*batch channel rows columns``, the label of one channel, 0 and 1."""

    image: Tensor
    coarse: Tensor


class Scene(NamedTuple):
    """A patch, its coarse label, the background of a patch of any image, and what is left of the weak term."""

    image: Tensor
    coarse: Tensor
    background: Tensor
    weak: Tensor


class Setting(NamedTuple):
    """An image beside all that a background is drawn from, and how much of the phase is over."""

    pairing: Pairing
    over: float = 0.0

    def at(self, over: float) -> Setting:
        """Tell how much of the phase is over."""
        return self._replace(over=over)


class AFSeg(Method):
    """A generator, a critic and the segmenter that learns from what the generator makes."""

    needs: ClassVar[Needs] = Needs(unit=Unit.IMAGE, dims=(2,))
    options_class: ClassVar[type[SharedOptions]] = Options
    monitor: ClassVar[Monitor] = Monitor("coarse", "higher", chance="everything")
    makes: ClassVar[str] = "how likely each pixel belongs to an object, and the mask"
    compares: ClassVar[bool] = True

    options: Options
    found: Tensor

    def __init__(self, options: Options, encoder: Encoder) -> None:
        super().__init__(options, encoder)
        self.patch = patch_for(encoder, options.patch_size)
        encoder.check(self.patch)
        self.decoder = build_decoder(encoder, out_channels=1)
        self.drawer = build_encoder(options.encoder, dims=2, in_channels=2)  # of C and z
        self.painter = build_decoder(self.drawer, out_channels=encoder.in_channels)
        channels, layers = encoder.in_channels, options.critic_layers
        self.critic = PatchCritic(channels, width=options.critic_width, layers=layers, norm="instance")  # fmt: skip
        self.critic.check(self.patch)
        self.direct_encoder = copy.deepcopy(encoder).requires_grad_(False)
        self.direct_decoder = copy.deepcopy(self.decoder).requires_grad_(False)
        self.register_buffer("found", torch.zeros((), dtype=torch.bool))  # whether both have learnt
        self.backgrounds = Scratch()
        self.turn = SquareTurn()

    @classmethod
    def preparation(cls, options: Any) -> CoarseLabel:
        """Find every image's coarse label once."""
        return CoarseLabel(options.coarse, options.objects, options.channel)

    @classmethod
    def require(cls, record: Record, options: Any) -> None:
        """Refuse volumes, images smaller than a patch, and those whose coarse label leaves no object or no background."""
        if record.dims != 2:
            raise ScanError("is a volume", "Give pictures; af-seg makes images of two axes.")
        if any(n < edge for n, edge in zip(record.space, options.patch_size, strict=False)):
            edges = " ".join(str(min(record.space) // 16 * 16 or min(record.space)) for _ in "ab")
            raise ScanError("is smaller than a patch", f"Give --patch-size {edges}.")
        share = float(record.extras[COARSE].whole().mean())
        if share == 0:
            raise ScanError("has an empty coarse label", "Try --objects dark, or another --coarse.")
        if options.factor * share > MOST_MASKED:
            raise ScanError(
                f"has a coarse label of {100 * share:.0f} % of its pixels, which leaves no background",
                "Try --objects dark or --objects rarer, or another --coarse.",
            )

    def notes(self) -> tuple[str, ...]:
        """Say what the labels come from."""
        made = self.options
        return (f"coarse labels by {made.coarse}, objects {made.objects}; no mask is learnt from",)

    def phases(self) -> tuple[Phase, ...]:
        """Learn from coarse labels, make the backgrounds, then learn from made images."""
        size, unit, warm = self.options.batch_size, self.needs.unit, self.options.warm_up
        segmenter: list[nn.Module] = [self.encoder, self.decoder]
        images = Feed(self.views, size, unit)
        scenes = Feed(self.compose, size, unit, group=self.set_beside, pace=Setting.at)
        networks: dict[str, list[nn.Module]] = {
            "critic": [self.critic],
            "generator": [self.drawer, self.painter],
            "segmenter": segmenter,
        }
        first = Phase("warm-up", self.warm_up, {"segmenter": segmenter}, {"images": images}, warm)
        second = Phase(
            "adversarial", self.step, networks, {"scenes": scenes}, 1 - warm,
            before=self.clear, monitor=Monitor("made", "higher", chance="everything"),
        )  # fmt: skip
        return first, second

    def views(self, record: Record, rng: Generator) -> Sample:
        """Cut a patch with its coarse label, and turn both."""
        start = draw_start(record.space, self.patch, rng)
        label = torch.from_numpy(record.extras[COARSE].read(start, self.patch)).float()
        return Sample(*self._turned([record.patch(start, self.patch), label], rng))

    def compose(self, setting: Setting, rng: Generator) -> Scene:
        """Set a patch beside the background of another."""
        image, coarse = self.views(setting.pairing.record, rng)
        other = setting.pairing.draw(rng)
        self.make_backgrounds([other])
        start = draw_start(other.space, self.patch, rng)
        kept = torch.from_numpy(self.backgrounds.read(other.source.name, start, self.patch))
        (background,) = self._turned([kept], rng)
        weak = torch.tensor(self.options.weak_weight * (1 - setting.over))
        return Scene(image, coarse, background, weak)

    def _turned(self, parts: Sequence[Tensor], rng: Generator) -> list[Tensor]:
        way = self.turn.draw(self.patch, rng) if self.options.turns else 0
        return [turn_square(part, way) for part in parts]

    def set_beside(self, records: Sequence[Record]) -> list[Setting]:
        """Set each image beside all; a run that goes on makes their backgrounds again."""
        if bool(self.found):
            self.make_backgrounds(records)
        return [Setting(pairing) for pairing in pair_scans(records, subjects=False)]

    def clear(self, records: Sequence[Record]) -> None:
        """Keep the segmenter as it learnt from coarse labels, and make every image's background by it."""
        self.direct_encoder.load_state_dict(self.encoder.state_dict())
        self.direct_decoder.load_state_dict(self.decoder.state_dict())
        self.found.fill_(True)
        self.backgrounds = Scratch()
        self.make_backgrounds(records)

    @torch.no_grad()
    def make_backgrounds(self, records: Sequence[Record]) -> None:
        """Make the backgrounds that are not there yet; each depends on the image and the seed alone."""
        for record in records:
            name = record.source.name
            if not self.backgrounds.holds(name):
                image = record.patch((0, 0), record.space)
                coarse = torch.from_numpy(record.extras[COARSE].whole()[0]) > 0
                likely = likelihood(self.direct_encoder, self.direct_decoder, image)
                hidden = self.mask(likely, coarse)
                rng = generator(self.options.seed, "background", name)
                self.backgrounds.put(name, take_away(image, hidden, rng).numpy())

    def mask(self, likely: Tensor, coarse: Tensor) -> Tensor:
        """Say which pixels are taken away, ``rows columns``: the likeliest, those of the label, and what is near."""
        taken = widen(top_share(likely, coarse, self.options.factor), self.options.dilation)
        return taken if not taken.all() else coarse

    def segment(self, image: Tensor) -> Tensor:
        """Give the logits of belonging to an object, ``batch 1 rows columns``."""
        logits: Tensor = self.decoder(self.encoder(image), image.shape[2:])
        return logits.float()

    def draw(self, coarse: Tensor) -> Tensor:
        """Draw objects of a shape, O = G(C, z), as images in (0, 1)."""
        given = torch.cat([coarse, torch.randn_like(coarse)], dim=1)
        painted: Tensor = self.painter(self.drawer(given), coarse.shape[2:])
        return torch.sigmoid(painted.float())

    def warm_up(self, batch: Sample) -> Iterator[Update]:
        """Learn from the coarse labels as if they were right."""
        yield Update(foreground_loss(self.segment(batch.image), batch.coarse), of="segmenter")

    def step(self, batch: Scene) -> Iterator[Update]:
        """Teach the critic, then the generator by both others, then the segmenter by what was made."""
        image, coarse, background, weak = batch
        options, drawn = self.options, self.draw(coarse)
        made = fuse(coarse, drawn, background)
        real = fuse(coarse, image, background) if options.real_star else image
        yield Update(tell_apart(self.critic(real), self.critic(made.detach())), of="critic")
        with standing_still(self.critic):
            convincing = convince(self.critic(made))
        both = self.encoder, self.decoder
        with standing_still(both[0]), standing_still(both[1]), evaluating(*both):
            shape = F.binary_cross_entropy_with_logits(self.segment(made), coarse)
        loss = convincing + options.shape_weight * shape
        if options.real_weight:
            within = coarse.expand_as(image) > 0
            loss = loss + options.real_weight * masked_error(drawn, image, within, power=1)
        yield Update(loss, of="generator", shows={"shape": shape})
        noisy = made.detach() + options.noise * torch.randn_like(made)
        found, on_real = self.segment(torch.cat([noisy, image])).chunk(2)  # normalised together
        trusted = F.binary_cross_entropy_with_logits(on_real, coarse)
        right = foreground_loss(found, coarse)
        yield Update(right + weak.mean() * trusted, of="segmenter", shows={"made": right})

    def optimiser(
        self, name: str, modules: Iterable[nn.Module]
    ) -> tuple[torch.optim.Optimizer, Schedule]:
        """Make Adam with a constant rate; generator and critic have their own."""
        if name == "segmenter":
            return torch.optim.Adam(parameters(modules), lr=self.options.lr), constant
        rate = self.options.adversarial_lr
        return torch.optim.Adam(parameters(modules), lr=rate, betas=BETAS), constant

    def score(self, batch: Sample | Scene) -> dict[str, Tensor]:
        """Measure the Dice with the coarse labels, beside that of calling everything an object; of scenes, more.

        ``made`` is the Dice on made images; ``left`` the mean likelihood on backgrounds over that on images, near 0 where
        no object is left; ``critic`` the share of right verdicts, 1 where a seam gives the made images away.
        """
        logits, share = self.segment(batch.image), batch.coarse.mean()
        right = dice((logits > 0).float(), batch.coarse)
        known = {"coarse": right, "everything": 2 * share / (1 + share)}
        if not isinstance(batch, Scene):
            return known
        made = fuse(batch.coarse, self.draw(batch.coarse), batch.background)
        left = self.segment(batch.background).sigmoid().mean()
        verdicts = self.critic(batch.image) > 0, self.critic(made) <= 0
        return {
            "made": dice((self.segment(made) > 0).float(), batch.coarse),
            **known,
            "left": left / logits.sigmoid().mean().clamp(min=1e-6),
            "critic": torch.stack([each.float().mean() for each in verdicts]).mean(),
        }

    def preview(self, batch: Sample | Scene) -> dict[str, Tensor]:
        """Show x and C, of scenes B, O and F, and what is found in x."""
        shown = {"image": batch.image, "coarse label": batch.coarse}
        if isinstance(batch, Scene):
            drawn = self.draw(batch.coarse)
            made = fuse(batch.coarse, drawn, batch.background)
            shown |= {"background": batch.background, "drawn": drawn, "made": made}
        return {**shown, "found": self.segment(batch.image).sigmoid()}

    def product(self, record: Record) -> Product:
        """Segment a whole image of any size; where it has a mask, compare with what came before."""
        if record.dims != 2:
            raise ScanError("is a volume", "Give pictures.")
        image = record.patch((0, 0), record.space)
        likely = likelihood(self.encoder, self.decoder, image)
        mask = likely > 0.5
        values: dict[str, float | str] = {"objects [%]": 100 * float(mask.float().mean())}
        if record.mask is not None:
            truth = (record.mask_patch((0, 0), record.space) > 0).float()
            coarse = torch.from_numpy(record.extras[COARSE].whole()[0])
            direct = likelihood(self.direct_encoder, self.direct_decoder, image) > 0.5
            each = {"dice": mask, "dice of direct training": direct, "dice of coarse label": coarse}
            values |= {name: float(dice(one.float(), truth)) for name, one in each.items()}
        pictures = {"mask": mask[None].float(), "shown": tinted(image[None], mask[None].float())[0]}
        return Product(images={"likely": likely[None]}, pictures=pictures, values=values)

    def carries(self) -> dict[str, nn.Module]:
        """Carry the segmenter alone; a task replaces its last convolution."""
        return {"encoder": self.encoder, "decoder": self.decoder}


def fuse(coarse: Tensor, drawn: Tensor, background: Tensor) -> Tensor:
    """Set objects onto a background: F = C O + (1 - C) B, exactly."""
    return torch.where(coarse > 0, drawn, background)
