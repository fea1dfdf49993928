"""Classes by prompts, without any labelled scan: for pretrainings that matched images with report sentences."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from unlabeled.data.store import Record
from unlabeled.errors import OptionError
from unlabeled.losses.crossmodal import global_scores, word_scores
from unlabeled.methods._base import Monitor, Update
from unlabeled.nn.crossmodal import Projection, SharedSpace
from unlabeled.nn.encoders import Encoder
from unlabeled.nn.text import TextEncoder, from_buffer
from unlabeled.nn.weights import load_weights
from unlabeled.transfer.prompts import choose_prompts
from unlabeled.transfer.task import FinetuneOptions, Given, Patch
from unlabeled.transfer.tasks import Classes, classes_among, unit_range
from unlabeled.transforms.squares import Framing

_SPACE = "space."  # before the names of what such a pretraining carries beside its encoder


class Prompts(nn.Module):
    """Prompts as vectors, and how each class scores usually.

    Parameters
    ----------
    prompts, places, width
        How many there are, their words, and the length of a vector.
    classes
        How many classes there are.

    Attributes
    ----------
    words, whole
        ``prompt word width`` and ``prompt width``.
    attends, counts
        Which words share out regions, and which of them can be the best match: ``prompt word``.
    usual, spread
        Mean and deviation of each class's score over the scans that the task was fitted on.
    """

    words: Tensor
    whole: Tensor
    attends: Tensor
    counts: Tensor
    usual: Tensor
    spread: Tensor

    def __init__(self, prompts: int, places: int, width: int, classes: int) -> None:
        super().__init__()
        self.register_buffer("words", torch.zeros(prompts, places, width))
        self.register_buffer("whole", torch.zeros(prompts, width))
        self.register_buffer("attends", torch.zeros(prompts, places, dtype=torch.bool))
        self.register_buffer("counts", torch.zeros(prompts, places, dtype=torch.bool))
        self.register_buffer("usual", torch.zeros(classes))
        self.register_buffer("spread", torch.ones(classes))


class ZeroShot(Classes):
    """The class whose prompts match a scan best, after each class's usual score is taken off.

    A prompt's score is the mean of two cosines: of the whole image with the whole prompt, and of its best word with the
    regions that the word attends to; a class's is that of its best prompt.  Scores of different classes do not compare,
    so each is standardised: by its mean and deviation over the scans that the task is fitted on, whose labels are not
    looked at.  (The official code of GLoRIA standardises over the scans at hand, which makes an answer depend on its
    companions.)

    Parameters
    ----------
    options, encoder, quiet
        As in `Task`.
    prompts
        Of each class.
    habits
        How the pretraining brought images and texts into its space.
    places, width
        Words of a prompt, and the length of a vector.
    """

    kind = "zero-shot"
    gradients = False
    monitor = Monitor("accuracy", "higher")

    def __init__(
        self,
        options: FinetuneOptions,
        encoder: Encoder,
        prompts: Mapping[str, Sequence[str]],
        habits: Mapping[str, Any],
        places: int,
        width: int,
        *,
        quiet: Collection[str] = (),
    ) -> None:
        super().__init__(options, encoder, quiet=quiet)
        self.classes = tuple(prompts)
        self.sentences = {name: tuple(each) for name, each in prompts.items()}
        self.habits = dict(habits)
        rows, columns = habits["crop"]
        self.framing = Framing(edge=habits["edge"], crop=(rows, columns))
        self.space = Projection(encoder, width)
        count = sum(map(len, self.sentences.values()))
        self.prompts = Prompts(count, places, width, len(self.classes))

    @classmethod
    def build(cls, given: Given) -> Self:
        """Read the prompts with the text encoder of the pretraining.

        Raises
        ------
        OptionError
            The weights read no text, or a class has no prompts.
        """
        held = {n.removeprefix(_SPACE): t for n, t in given.tensors.items() if n.startswith(_SPACE)}
        if "about" not in held or "text.about" not in held:
            slug = given.metadata.get("slug")
            raise OptionError(
                f"the weights of {slug} read no text" if slug else "zero-shot needs a pretraining",
                "Give --init RUN of a pretraining on reports: unlabeled pretrain gloria.",
            )
        habits, text = from_buffer(held["about"]), TextEncoder.like(held["text.about"])
        prompts = choose_prompts(classes_among(given), given.options.prompts)
        space = SharedSpace(given.encoder, text, habits).eval()
        load_weights(space, held, source="the text encoder", least=1.0)
        width, places = text.shape.width, habits["words"]
        made = cls(given.options, given.encoder, prompts, habits, places, width, quiet=given.quiet)
        made.space.load_state_dict(
            {
                name: value
                for name, value in space.state_dict().items()
                if name in made.space.state_dict()
            }
        )
        made.read(space)
        return made

    @classmethod
    def restore(
        cls, described: Mapping[str, Any], options: FinetuneOptions, encoder: Encoder
    ) -> Self:
        """Build the task with its prompts, whose vectors are loaded."""
        told = (described[name] for name in ("prompts", "habits", "places", "width"))
        return cls(options, encoder, *told)

    def describe(self) -> dict[str, Any]:
        """Give classes, prompts and habits."""
        _, places, width = self.prompts.words.shape
        return {
            "kind": self.kind,
            "classes": list(self.classes),
            "prompts": {name: list(each) for name, each in self.sentences.items()},
            "habits": self.habits,
            "places": places,
            "width": width,
        }

    @torch.no_grad()
    def read(self, space: SharedSpace) -> None:
        """Make the vectors of the prompts.

        With the published code's habits, as many places of a prompt take part as it has letters, from the second on;
        else the start and its words share out regions, and its words can match.
        """
        texts = [text for each in self.sentences.values() for text in each]
        tokens = [space.text.tokeniser.encode(text, self.habits["words"]) for text in texts]
        found = space.read(
            torch.stack([each.ids for each in tokens]), torch.stack([each.words for each in tokens])
        )
        self.prompts.words.copy_(found.words)
        self.prompts.whole.copy_(found.whole)
        places = torch.arange(found.words.shape[1])
        for row, (text, each) in enumerate(zip(texts, tokens, strict=True)):
            last = len(text) + 1 if self.habits["official"] else int(each.used)
            self.prompts.counts[row] = (places > 0) & (places < last)
            first = 1 if self.habits["official"] else 0
            self.prompts.attends[row] = (places >= first) & (places < last)

    def raw(self, image: Tensor) -> Tensor:
        """Score every class for ``batch channel *crop``: ``batch class``, before standardising."""
        if self.habits["enlarge"]:
            size = (self.habits["enlarge"], self.habits["enlarge"])
            image = F.interpolate(image, size=size, mode="bilinear", align_corners=True)
        seen, held = self.space.see(self.encoder(image)), self.prompts
        whole = global_scores(seen.whole, held.whole)
        each = word_scores(seen.regions, held.words, held.attends, self.habits["sharpness"])
        local = each.masked_fill(~held.counts, -torch.inf).amax(-1)
        counts = [len(each) for each in self.sentences.values()]
        scores = torch.split((whole + local) / 2, counts, 1)
        return torch.stack([prompts.amax(1) for prompts in scores], 1)

    def fit(self, records: Sequence[Record]) -> None:
        """Measure how each class scores usually; labels are not looked at."""
        device = self.prompts.whole.device
        scores = torch.cat([self.raw(self.framing.centre(r)[None].to(device)) for r in records])
        self.prompts.usual.copy_(scores.mean(0))
        spread = scores.std(0, correction=0)
        self.prompts.spread.copy_(torch.where(spread > 0, spread, 1.0))

    def forward(self, image: Tensor) -> Tensor:
        """Standardise the scores of every class: ``batch class``."""
        return (self.raw(image) - self.prompts.usual) / self.prompts.spread

    def own_logits(self, record: Record) -> Tensor:
        """Answer for the middle of the whole picture."""
        image = self.framing.centre(record)[None].to(self.prompts.whole.device)
        logits: Tensor = self(image)[0].cpu()
        return logits

    def views(self, record: Record, rng: Generator) -> Patch:
        """Give the middle of the picture and its class."""
        label = torch.tensor(self.number[str(record.source.label)])
        return Patch(self.framing.centre(record), label)

    def step(self, batch: Patch) -> Iterator[Update]:
        """Refuse: nothing is learnt."""
        raise NotImplementedError("zero-shot classification learns nothing")

    def score(self, batch: Patch) -> dict[str, Tensor]:
        """Count right answers."""
        return {"accuracy": (self(batch.image).argmax(1) == batch.truth).float().mean()}

    def preview(self, batch: Patch) -> dict[str, Tensor]:
        """Show the pictures."""
        return {"image": unit_range(batch.image)}
