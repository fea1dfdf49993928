"""Surrogate tasks: each lends an encoder, learns by labels that the images give themselves, and tells how far it got."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unlabeled.errors import OptionError
from unlabeled.losses.adversarial import convince, gradient_penalty, tell_apart, wasserstein_gap
from unlabeled.losses.colour import colour_scores
from unlabeled.methods._base import Update
from unlabeled.nn.critics import ImageCritic, PatchCritic, standing_still
from unlabeled.nn.decoders import Deconvolutions, build_decoder
from unlabeled.nn.encoders import Encoder
from unlabeled.nn.heads import ClassificationHead
from unlabeled.transforms.colour import LIGHTEST, MOST_COLOUR, lab_to_rgb, rgb_to_lab
from unlabeled.transforms.quarters import QuarterTurns, inscribed

SMALL_WEIGHT = (
    0.01  # most that a clipped critic's weight may be, either way (Arjovsky et al., ICML 2017)
)


class Sample(NamedTuple):
    """A patch as it is, and as the reconstruction sees it, ``*batch channel *space``, both in [0, 1]."""

    image: Tensor
    spoilt: Tensor


class Score(NamedTuple):
    """What a task measures on held-out images, and its error over that of knowing nothing."""

    figures: dict[str, Tensor]
    unsolved: Tensor


class Lesson(NamedTuple):
    """What the encoder and a task's own layers minimise, and further scalars for the log."""

    loss: Tensor
    shows: dict[str, Tensor]


class Surrogate(nn.Module, ABC):
    """One surrogate task; the encoder is lent to it, its own layers are its own.

    Attributes
    ----------
    layers
        What learns with the encoder.
    critic
        What has to be convinced, under an optimiser of its own; None where there is nothing to convince.
    critic_name
        Of that optimiser.
    """

    layers: nn.Module
    critic: nn.Module | None
    critic_name: ClassVar[str] = ""

    @abstractmethod
    def learn(self, encoder: Encoder, batch: Sample) -> Generator[Update, None, Lesson]:
        """Yield the updates of the critic, and return what the encoder minimises."""

    @abstractmethod
    def score(self, encoder: Encoder, batch: Sample) -> Score:
        """Measure held-out images, in evaluation mode and without gradients."""

    @abstractmethod
    def preview(self, encoder: Encoder, batch: Sample) -> dict[str, Tensor]:
        """Show the task: captions and ``batch channel *space`` in [0, 1]."""


class Rotation(Surrogate):
    """Say by which quarter turn an image was turned, of all K; every image comes in all of them.

    Parameters
    ----------
    encoder
        Whose coarsest map is averaged and goes to one linear layer.
    turns
        The turns.
    patch
        Edges of the images [voxel]; equal along axes that turns exchange.
    circle
        Show the inscribed circle, cylinder or ball alone: corners and borders tell nothing.
    """

    def __init__(
        self, encoder: Encoder, turns: QuarterTurns, patch: tuple[int, ...], *, circle: bool
    ) -> None:
        super().__init__()
        self.turns, self.critic = turns, None
        self.layers = ClassificationHead(encoder, turns.count)
        self.shown: Tensor | None
        self.register_buffer(
            "shown", inscribed(patch, turns.axes) if circle else None, persistent=False
        )

    def answers(self, encoder: Encoder, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Give all turned copies ``copies channel *space``, their logits ``copies turns``, and their turns ``copies``."""
        copies, turns = self.turns.all(image if self.shown is None else image * self.shown)
        return copies, self.layers(encoder(copies)).float(), turns

    def learn(self, encoder: Encoder, batch: Sample) -> Generator[Update, None, Lesson]:
        """Minimise the cross entropy [nat]."""
        yield from ()
        _, logits, turns = self.answers(encoder, batch.image)
        accuracy = (logits.argmax(1) == turns).float().mean()
        loss = F.cross_entropy(logits, turns)
        return Lesson(loss, {"rotation loss": loss, "rotation accuracy": accuracy})

    def score(self, encoder: Encoder, batch: Sample) -> Score:
        """Count right answers, over all turns and for the turn that is recognised worst."""
        _, logits, turns = self.answers(encoder, batch.image)
        right = confusion(logits, turns).diagonal()
        accuracy, guessing = right.mean(), 1 / self.turns.count
        figures = {
            "rotation accuracy": accuracy,
            "rotation chance": accuracy.new_tensor(guessing),
            "rotation worst turn": right.min(),
            "rotation loss": F.cross_entropy(logits, turns),
        }
        return Score(figures, (1 - accuracy) / (1 - guessing))

    def preview(self, encoder: Encoder, batch: Sample) -> dict[str, Tensor]:
        """Show images turned, each in another way, turned back as they are told to be, and as they were.

        With them the confusion matrix, rows true turns, bright where many are told.
        """
        copies, logits, turns = self.answers(encoder, batch.image)
        each, count = torch.arange(len(batch.image), device=copies.device), self.turns.count
        some = each * count + (each + 1) % count
        told = [
            self.turns.undo(copies[place], int(logits[place].argmax())) for place in some.tolist()
        ]
        matrix = confusion(logits, turns)
        if (
            batch.image.ndim == 5
        ):  # volumes are shown with their first axis to the right, the second upwards
            matrix = matrix.flip(0).T[..., None]
        table = matrix.expand(len(each), 1, *matrix.shape)
        return {
            "turned": copies[some],
            "turned back": torch.stack(told),
            "upright": batch.image,
            "told (of each turn)": table,
        }


class Reconstruction(Surrogate):
    """Give an image back from a code, so that a Wasserstein critic does not tell it from a real one.

    Parameters
    ----------
    encoder
        Whose coarsest map is the code; with `links`, finer maps pass it by.
    links
        Decode with links, as the segmentation network does.
    adversarial
        Weight of the critic's verdict, over the root of an image's size, beside the mean squared error; 0 leaves the critic
        out.  At a slope of 1 the verdict can rise by the Euclidean distance of two images, which grows with that root:
        without it, the larger an image, the less its error would count.
    critic_steps
        Updates of the critic for one of the encoder.
    penalty
        Weight of the gradient penalty; None clips weights instead.
    critic
        Makes the critic.
    """

    critic_name = "reconstruction critic"

    def __init__(
        self,
        encoder: Encoder,
        *,
        links: bool,
        adversarial: float,
        critic_steps: int,
        penalty: float | None,
        critic: Callable[[], ImageCritic],
    ) -> None:
        super().__init__()
        build = build_decoder if links else Deconvolutions
        self.layers = build(encoder, out_channels=encoder.in_channels)
        self.adversarial, self.critic_steps, self.penalty = adversarial, critic_steps, penalty
        self.critic = critic() if adversarial else None

    def restore(self, encoder: Encoder, spoilt: Tensor) -> Tensor:
        """Give images back; the output is linear."""
        restored: Tensor = self.layers(encoder(spoilt), spoilt.shape[2:])
        return restored.float()

    def judge(self, image: Tensor) -> Tensor:
        """Compute the critic's number of each image, ``batch``, in single precision."""
        if self.critic is None:
            return image.new_zeros(len(image))
        with torch.autocast(image.device.type, enabled=False):
            verdict: Tensor = self.critic(image.float())
        return verdict

    def learn(self, encoder: Encoder, batch: Sample) -> Generator[Update, None, Lesson]:
        """Let the critic learn some times from real and restored images, then minimise error and its displeasure."""
        image = batch.image.float()
        restored = self.restore(encoder, batch.spoilt)
        error = F.mse_loss(restored, image)
        shows = {"reconstruction loss": error, "psnr": psnr(error)}
        if self.critic is None:
            return Lesson(error, shows)
        for _ in range(self.critic_steps):
            gap = wasserstein_gap(self.judge(image), self.judge(restored.detach()))
            loss, told = -gap, {"wasserstein": gap}
            if self.penalty is not None:
                shares = torch.rand(len(image), device=image.device)
                penalty = gradient_penalty(self.judge, image, restored, shares)
                loss, told = loss + self.penalty * penalty, {**told, "penalty": penalty}
            yield Update(loss, of=self.critic_name, shows=told)
            if self.penalty is None:
                clip(self.critic)
        with standing_still(self.critic):
            displeasure = -self.judge(restored).mean() / math.sqrt(image[0].numel())
        return Lesson(error + self.adversarial * displeasure, shows)

    def score(self, encoder: Encoder, batch: Sample) -> Score:
        """Measure the squared error beside that of the mean intensity, both also as a signal-to-noise ratio [dB]."""
        image = batch.image.float()
        restored = self.restore(encoder, batch.spoilt)
        error, variance = F.mse_loss(restored, image), image.var(correction=0)
        figures = {
            "mse": error,
            "variance": variance,
            "psnr": psnr(error),
            "psnr of the mean": psnr(variance),
        }
        if self.critic is not None:
            figures["wasserstein"] = wasserstein_gap(self.judge(image), self.judge(restored))
        return Score(figures, error / variance.clamp(min=1e-12))

    def preview(self, encoder: Encoder, batch: Sample) -> dict[str, Tensor]:
        """Show what is seen, what is made of it, and what it should be."""
        restored = self.restore(encoder, batch.spoilt).clamp(0, 1)
        return {"seen": batch.spoilt, "reconstructed": restored, "intact": batch.image}


class Colourisation(Surrogate):
    """Paint a grey picture, so that a patch critic takes the colours for true ones.

    Parameters
    ----------
    encoder
        Sees the lightness in all its channels, so that it can see colours later; decoded with links.
    weight
        Of the absolute error of the colours.
    adversarial
        Weight of the critic's verdict; 0 leaves the critic out.
    critic
        Makes the critic.
    """

    critic_name = "colour critic"

    def __init__(
        self,
        encoder: Encoder,
        *,
        weight: float,
        adversarial: float,
        critic: Callable[[], PatchCritic],
    ) -> None:
        super().__init__()
        self.layers = build_decoder(encoder, out_channels=2)
        self.weight, self.adversarial = weight, adversarial
        self.critic = critic() if adversarial else None

    def paint(self, encoder: Encoder, lightness: Tensor) -> Tensor:
        """Give a* and b*, ``batch 2 rows columns`` in (-1, 1), of lightness in [0, 1]."""
        grey = lightness.expand(-1, encoder.in_channels, *lightness.shape[2:])
        painted: Tensor = self.layers(encoder(grey), grey.shape[2:])
        return torch.tanh(painted.float())

    def learn(self, encoder: Encoder, batch: Sample) -> Generator[Update, None, Lesson]:
        """Let the critic learn from true and painted colours, then minimise its doubt and the absolute error."""
        lightness, colour = apart(batch.image)
        painted = self.paint(encoder, lightness)
        error = F.l1_loss(painted, colour)
        loss = self.weight * error
        if self.critic is not None:
            real, made = (
                self.critic(torch.cat([lightness, each], 1)) for each in (colour, painted.detach())
            )
            yield Update(tell_apart(real, made), of=self.critic_name)
            with standing_still(self.critic):
                doubt = convince(self.critic(torch.cat([lightness, painted], 1)))
            loss = loss + self.adversarial * doubt
        return Lesson(loss, {"colour error": error * MOST_COLOUR})

    def score(self, encoder: Encoder, batch: Sample) -> Score:
        """Measure the mean absolute error of a* and b*, beside two ways of knowing nothing, and how colourful it is."""
        lightness, colour = apart(batch.image)
        everywhere = torch.ones_like(lightness, dtype=torch.bool)
        scores = colour_scores(self.paint(encoder, lightness), colour, everywhere, MOST_COLOUR)
        figures = {f"colour {name.replace('_', ' ')}": value for name, value in scores.items()}
        return Score(figures, scores["error"] / scores["constant"].clamp(min=1e-6))

    def preview(self, encoder: Encoder, batch: Sample) -> dict[str, Tensor]:
        """Show the grey picture, the colours that were painted, and the true ones."""
        lightness, colour = apart(batch.image)
        painted = self.paint(encoder, lightness)
        shown = {"grey": torch.zeros_like(colour), "painted": painted, "true": colour}
        return {
            name: lab_to_rgb(torch.cat([lightness * LIGHTEST, each * MOST_COLOUR], dim=1))
            for name, each in shown.items()
        }


def apart(image: Tensor) -> tuple[Tensor, Tensor]:
    """Take RGB in [0, 1] apart: lightness in [0, 1], and a* and b* in [-1, 1]."""
    with torch.autocast(image.device.type, enabled=False):
        lab = rgb_to_lab(image[:, :3].float())
    return lab[:, :1] / LIGHTEST, (lab[:, 1:] / MOST_COLOUR).clamp(-1, 1)


def confusion(logits: Tensor, truth: Tensor) -> Tensor:
    """Give of each true class the share that each class is told, ``true told``; as many of each class are there.

    >>> confusion(torch.eye(2)[[0, 0, 0, 1]], torch.tensor([0, 1, 0, 1]))
    tensor([[1.0000, 0.0000],
            [0.5000, 0.5000]])
    """
    classes = logits.shape[1]
    told = F.one_hot(logits.argmax(1), classes).float()
    return F.one_hot(truth, classes).float().T @ told * (classes / len(truth))


def psnr(error: Tensor) -> Tensor:
    """Give the ratio of the largest intensity, 1, to a mean squared error [dB].

    >>> psnr(torch.tensor(0.01))
    tensor(20.)
    """
    return -10 * torch.log10(error.detach().clamp(min=1e-12))


def clip(critic: nn.Module) -> None:
    """Bound a critic's slope by bounding its weights."""
    with torch.no_grad():
        for weight in critic.parameters():
            weight.clamp_(-SMALL_WEIGHT, SMALL_WEIGHT)


def require_room(patch: tuple[int, ...], layers: int, least: Callable[[int], int]) -> None:
    """Refuse patches [voxel] of which a critic of so many layers leaves nothing.

    Parameters
    ----------
    least
        Gives the smallest edge for a number of layers [voxel].

    Raises
    ------
    OptionError
        Naming how many layers would fit.
    """
    if min(patch) >= least(layers):
        return
    fitting = [count for count in range(1, layers) if min(patch) >= least(count)]
    edges = " ".join([str(least(layers))] * len(patch))
    raise OptionError(
        f"a patch of {' x '.join(map(str, patch))} is too small for a critic of {layers} layers",
        f"Give --critic-layers {fitting[-1]}." if fitting else f"Give --patch-size {edges}.",
    )
