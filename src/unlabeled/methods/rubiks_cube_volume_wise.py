"""Rubik's cube++: put a volume right whose layers were turned as a Rubik's cube is (Tao et al., MICCAI 2020).

A volume x is made of sub-cubes of m voxels.  R times a layer of them, a slab of m voxels along some axis, is turned by
quarters in its plane: its sub-cubes change places and their contents turn with them, while neighbours within the slab stay
neighbours.  A generator G, an encoder-decoder, sees the turned volume x~ and gives the volume back; a critic D says,
patch by patch, whether a volume is a true one:

    critic:     (BCE(D(x), 1) + BCE(D(stop(G(x~))), 0)) / 2
    generator:  lambda_rec mean((G(x~) - x) ** 2) + lambda_adv BCE(D(G(x~)), 1)     over all voxels, moved or not
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from unlabeled.data.intensity import IntensityRule
from unlabeled.data.sampling import draw_start
from unlabeled.data.scan import Unit
from unlabeled.data.store import Record
from unlabeled.errors import OptionError
from unlabeled.losses.adversarial import convince, tell_apart
from unlabeled.losses.restoration import histogram_distance, masked_error
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
from unlabeled.nn.critics import PatchCritic, standing_still
from unlabeled.nn.decoders import build_decoder
from unlabeled.nn.encoders import Encoder
from unlabeled.nn.schedules import Schedule, constant, cosine
from unlabeled.options import Count, NonNegative, Positive, Probability, Whole
from unlabeled.rng import generator
from unlabeled.transforms.planes import three_planes
from unlabeled.transforms.spatial import RepeatedFlip
from unlabeled.transforms.turning import LayerTurns

CRITIC_BETAS = (0.5, 0.999)  # of Adam (conditional GANs, unconfirmed for this paper)
MOST_AVERAGED = 64  # patches that the mean patch is made of (ours)


@dataclass(frozen=True, kw_only=True)
class Options(SharedOptions):
    """Defaults are ours unless the paper is named: its numbers are unconfirmed, and no code was published.

    Parameters
    ----------
    epochs
        Passes over the scans.
    batch_size
        Samples a step, over all devices.
    lr
        Learning rate of the generator at the start, of Adam; it falls on half a cosine.
    encoder
        Encoder of the generator (paper: an encoder-decoder; a U-Net is unconfirmed).
    patch_size
        Edge lengths of a patch, multiples of `side` [voxel]; quarter turns need equal ones.
    side
        Edge of a sub-cube m, the thickness of a layer [voxel] (paper: small ones are good; unconfirmed).
    turns
        Turns of a patch, R; without it, as many as there are layers along an axis.  0 makes an autoencoder.
    p_flip
        Probability of each further flip, at most three; the patch is flipped before its layers are turned.
    error
        Of the reconstruction; which one the paper takes is unconfirmed.
    reconstruction
        Weight of the error in the generator's loss, lambda_rec.
    adversarial
        Weight of the adversarial term, lambda_adv (paper: both terms); without it there is no critic.
    critic_after
        Epochs of reconstruction alone before the critic joins; left out where there are no more epochs than that.
    critic_lr
        Learning rate of the critic at the start.
    critic_width
        Channels of the critic's first convolution; they double with each that follows, but for the last.
    critic_layers
        Convolutions of the critic between the first and the last.
    ct_window
        Window of CT scans [HU].
    """

    epochs: Count = 200
    batch_size: Count = 4
    lr: Positive = 1e-3
    encoder: str = "unet"
    patch_size: tuple[Count, ...] = (56, 56, 56)
    side: Count = 7
    turns: Whole | None = None
    p_flip: Probability = 0.0
    error: Literal["squared", "absolute"] = "squared"
    reconstruction: NonNegative = 10.0
    adversarial: NonNegative = 1.0
    critic_after: Whole = 1
    critic_lr: Positive = 1e-4
    critic_width: Count = 32
    critic_layers: Count = 3
    ct_window: tuple[float, float] = (-100.0, 240.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.reconstruction == self.adversarial == 0:
            raise OptionError(
                "--reconstruction and --adversarial are both 0", "Give --reconstruction 10."
            )
        low, high = self.ct_window
        if not low < high:
            raise OptionError(
                f"--ct-window goes from {low} to {high}, which is empty",
                "Give the lower end first: --ct-window -100 240.",
            )
        self.turning.check(self.patch_size)

    @property
    def turning(self) -> LayerTurns:
        """What is turned."""
        return LayerTurns(self.side, self.turns)

    @property
    def alone(self) -> int:
        """Epochs that the generator restores without a critic, before it joins."""
        both = self.reconstruction and self.adversarial and self.critic_after < self.epochs
        return self.critic_after if both else 0


class Sample(NamedTuple):
    """A patch with turned layers and the untouched one, ``*batch channel *space``, both in [0, 1]."""

    turned: Tensor
    intact: Tensor


class RubiksCubeVolumeWise(Method):
    """A generator turns the layers of a volume back, and a critic has to be convinced of the result."""

    needs: ClassVar[Needs] = Needs(unit=Unit.VOLUME, dims=(3,))
    options_class: ClassVar[type[SharedOptions]] = Options
    monitor: ClassVar[Monitor] = Monitor("mse", "lower", chance="identity")

    options: Options
    mean: Tensor

    def __init__(self, options: Options, encoder: Encoder) -> None:
        super().__init__(options, encoder)
        self.decoder = build_decoder(encoder, out_channels=encoder.in_channels)
        self.patch = patch_for(encoder, options.patch_size)
        encoder.check(self.patch)
        self.turn = options.turning
        self.flip = RepeatedFlip(options.p_flip)
        self.register_buffer("mean", torch.zeros(encoder.in_channels, *self.patch))
        if options.adversarial:
            self.critic = PatchCritic(
                encoder.in_channels,
                dims=encoder.dims,
                width=options.critic_width,
                layers=options.critic_layers,
                norm="instance",
            )
            self.critic.check(self.patch)

    @classmethod
    def intensity(cls, options: SharedOptions) -> IntensityRule:
        """Scale to [0, 1], CT from a window of soft tissue."""
        return IntensityRule(ct=getattr(options, "ct_window", Options.ct_window))

    def notes(self) -> tuple[str, ...]:
        """Say where turns are less than the options' names promise."""
        if self.options.turns == 0:
            return ("no layer is turned (--turns 0): the network learnt as an autoencoder",)
        if len(set(self.patch)) == len(self.patch):
            return ("no two edges of the patch are equal: layers were turned by halves alone",)
        return ()

    def phases(self) -> tuple[Phase, ...]:
        """Restore alone at first, then against the critic; without the adversarial term there is no critic to train."""
        options = self.options
        feeds = {"scans": Feed(self.views, options.batch_size, self.needs.unit)}
        restorer: list[nn.Module] = [self.encoder, self.decoder]
        stages = []
        if options.alone or not options.adversarial:
            first, share = {"main": restorer}, options.alone or 1
            stages.append(Phase("restoration", self.restoration, first, feeds, share=share))
        if options.adversarial:
            both: dict[str, list[nn.Module]] = {"critic": [self.critic], "generator": restorer}
            share = options.epochs - options.alone
            stages.append(Phase("adversarial", self.step, both, feeds, share=share))
        return (replace(stages[0], before=self.average), *stages[1:])

    def average(self, records: Sequence[Record]) -> None:
        """Keep the mean of some patches: what a network can say that looks at none."""
        some = records[:: math.ceil(len(records) / MOST_AVERAGED)]
        seed = self.options.seed
        cut = [self.crop(each, generator(seed, "mean", at)) for at, each in enumerate(some)]
        self.mean.copy_(torch.stack(cut).mean(0))

    def crop(self, record: Record, rng: Generator) -> Tensor:
        """Cut a patch ``channel *space`` from anywhere and flip it."""
        return self.flip(record.patch(draw_start(record.space, self.patch, rng), self.patch), rng)

    def views(self, record: Record, rng: Generator) -> Sample:
        """Cut a patch, and turn layers of a copy."""
        intact = self.crop(record, rng)
        return Sample(self.turn(intact, rng), intact)

    def restore(self, turned: Tensor) -> Tensor:
        """Restore volumes; every value lies in (0, 1), as those of true ones do."""
        restored: Tensor = self.decoder(self.encoder(turned), turned.shape[2:])
        return torch.sigmoid(restored.float())

    def reconstruction(self, restored: Tensor, intact: Tensor) -> Tensor:
        """Measure the error over all voxels."""
        measure = F.mse_loss if self.options.error == "squared" else F.l1_loss
        return measure(restored, intact.float())

    def step(self, batch: Sample) -> Iterator[Update]:
        """Let the critic learn from true and restored volumes, then the generator from truth and critic."""
        restored = self.restore(batch.turned)
        real, made = self.critic(batch.intact), self.critic(restored.detach())
        yield Update(tell_apart(real, made), of="critic")
        with standing_still(self.critic):
            convincing = convince(self.critic(restored))
        error = self.reconstruction(restored, batch.intact)
        loss = self.options.reconstruction * error + self.options.adversarial * convincing
        shows = {"reconstruction": error, "convincing": convincing}
        yield Update(loss, of="generator", shows=shows)

    def restoration(self, batch: Sample) -> Iterator[Update]:
        """Let the generator learn from the truth alone."""
        error = self.reconstruction(self.restore(batch.turned), batch.intact)
        yield Update(self.options.reconstruction * error, shows={"reconstruction": error})

    def optimiser(
        self, name: str, modules: Iterable[nn.Module]
    ) -> tuple[torch.optim.Optimizer, Schedule]:
        """Make Adam for either network; rates fall on half a cosine, once the critic is there where it joins later."""
        options, moved = self.options, parameters(modules)
        schedule = constant if name == "main" and options.alone else cosine()
        if name == "critic":
            return torch.optim.Adam(moved, lr=options.critic_lr, betas=CRITIC_BETAS), schedule
        return torch.optim.Adam(moved, lr=options.lr), schedule

    def score(self, batch: Sample) -> dict[str, Tensor]:
        """Measure the error, over all voxels and over moved ones, beside two ways of knowing nothing.

        ``identity`` is the error of giving back the turned patch, ``mean`` that of always giving the mean training patch,
        ``moved`` the share of voxels that changed, ``histogram`` how far the restored intensities, wherever they lie,
        are from those that went in (which are the true ones).
        """
        turned, intact = batch.turned.float(), batch.intact.float()
        restored, moved = self.restore(batch.turned), turned != intact
        return {
            "mse": F.mse_loss(restored, intact),
            "mse_moved": masked_error(restored, intact, moved),
            "identity": F.mse_loss(turned, intact),
            "identity_moved": masked_error(turned, intact, moved),
            "mean": F.mse_loss(self.mean.float().expand_as(intact), intact),
            "moved": moved.float().mean(),
            "histogram": histogram_distance(restored, turned),
        }

    def preview(self, batch: Sample) -> dict[str, Tensor]:
        """Show three planes of the patch with turned layers, restored and as it was, and how far that is off."""
        turned, intact = batch.turned.float(), batch.intact.float()
        restored = self.restore(batch.turned)
        return {
            "turned": three_planes(turned, self.options.side),
            "restored": three_planes(restored),
            "intact": three_planes(intact),
            "difference": three_planes((restored - intact).abs()),
        }

    def carries(self) -> dict[str, nn.Module]:
        """Carry the generator: the encoder to any task, the decoder to segmentation; never the critic."""
        return {"encoder": self.encoder, "decoder": self.decoder}
