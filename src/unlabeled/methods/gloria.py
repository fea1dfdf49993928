"""GLoRIA: match radiographs with report sentences, as wholes and word by word (Huang et al., ICCV 2021).

An image gives a vector g and regions r_m, a sentence a vector t and words w_n (the start mark is one of them).  Globally,
S_ij = cos(g_i, t_j).  Locally, each word attends to the regions: s_mn = r_m . w_n, p = softmax of s over words, a = softmax
of tau1 p over regions, c_n = sum_m a_nm r_m; image and sentence match by Z = log sum_n exp(tau2 cos(w_n, c_n)).  The loss
is the cross entropy of tau3 S and of tau3 Z, each over rows and over columns, all four added.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from unlabeled.data.reports import require_reports, sentences
from unlabeled.data.scan import Scan, Unit
from unlabeled.data.store import Record
from unlabeled.errors import DataError, OptionError
from unlabeled.losses.crossmodal import (
    attend,
    both_ways,
    evenness,
    found_share,
    global_scores,
    local_scores,
    same_text,
)
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
)
from unlabeled.nn.crossmodal import Seen, SharedSpace
from unlabeled.nn.encoders import Encoder
from unlabeled.nn.gathering import gather_rows
from unlabeled.nn.schedules import Schedule, cosine
from unlabeled.nn.text import text_encoder
from unlabeled.nn.tokens import Tokens
from unlabeled.options import Between, Count, NonNegative, Positive
from unlabeled.transforms.overlay import decided, side_by_side
from unlabeled.transforms.squares import Framing, KeepSquare

OFFICIAL_STOP = 5  # words: the official code takes the captions per image for the longest caption
SHOWN = ("picture", "first word", "second word", "third word", "fourth word")  # of a preview


@dataclass(frozen=True, kw_only=True)
class Options(SharedOptions):
    """Defaults of the official code unless another source is named.

    Parameters
    ----------
    patch_size
        Rows and columns that a step sees of the square [pixel].
    epochs
        Passes over the pictures; `patience` may end the training before.
    batch_size
        Pictures that are told apart in a step, over all devices.
    lr
        Learning rate at the start, for weights that were trained before; from scratch try 0.001 (ours).
    encoder
        Network of pictures; regions come from its map before the coarsest.
    image_size
        Edge of the square that a whole picture becomes, sides in proportion and padded [pixel].
    enlarge
        Edge to which what a step sees is enlarged before the encoder [pixel]; 0 leaves it (ours).
    sentence
        What of a report a step sees: one sentence drawn at random, or the whole.
    words
        Longest text [piece].
    text
        Folder of a BERT model to start the text encoder from (official: Bio_ClinicalBERT); without it, one from scratch.
    text_width, text_layers, text_heads
        Sizes of a text encoder from scratch; the width is that of the shared space (ours).
    sharpness
        tau1, factor of the attention's second softmax.
    peak
        tau2, factor of a word's cosine.
    factor
        tau3, factor of the scores that are compared; a temperature of 0.1.
    agg
        How the words' terms make a score; with mean, long sentences gain nothing by their length.
    local_weight, global_weight
        Weights of the two losses.
    clip
        Largest norm of the gradient.
    patience
        Scores without improvement after which the training ends.
    fidelity
        Mend the quirks of the official code, or reproduce them.
    """

    patch_size: tuple[Count, ...] = (224, 224)
    epochs: Count = 50
    batch_size: Count = 48
    lr: Positive = 5e-5
    encoder: str = "resnet50"
    image_size: Count = 256
    enlarge: Annotated[int, Between(0)] = 299
    sentence: Literal["one", "all"] = "one"
    words: Annotated[int, Between(3)] = 97
    text: str = ""
    text_width: Count = 256
    text_layers: Count = 4
    text_heads: Count = 4
    sharpness: Positive = 4.0
    peak: Positive = 5.0
    factor: Positive = 10.0
    agg: Literal["sum", "mean"] = "sum"
    local_weight: NonNegative = 1.0
    global_weight: NonNegative = 1.0
    clip: Positive = 0.25
    patience: Count = 10
    fidelity: Literal["clean", "official"] = "clean"

    def __post_init__(self) -> None:
        super().__post_init__()
        if max(self.patch_size[:2]) > self.image_size:
            raise OptionError(
                f"--patch-size {' '.join(map(str, self.patch_size))} does not fit into --image-size {self.image_size}",
                f"Give --image-size {max(self.patch_size[:2])} or more.",
            )
        if self.text and not Path(self.text).is_dir():
            raise OptionError(
                f"--text {self.text} is no folder",
                "Give the folder of a BERT model: config.json, vocab.txt and its tensors.",
            )
        if self.local_weight == self.global_weight == 0:
            raise OptionError("both losses have the weight 0", "Give --global-weight 1.")


class Sample(NamedTuple):
    """A picture, ``*batch channel rows columns`` in [0, 1], and a text as `Tokens`."""

    image: Tensor
    ids: Tensor
    words: Tensor
    used: Tensor


class Gloria(Method):
    """Pictures and report sentences share a space, and words one with regions."""

    needs: ClassVar[Needs] = Needs(unit=Unit.IMAGE, dims=(2,), metadata=("report",))
    options_class: ClassVar[type[SharedOptions]] = Options
    monitor: ClassVar[Monitor] = Monitor("loss", "lower", chance="loss_chance")
    keeps = "best"
    makes: ClassVar[str] = "where the network looks at each word of a scan's own report"
    quirks: ClassVar[Mapping[str, str]] = {
        "lost sentences": "official: the rest of a report is left out when its words so far are exactly five; clean: no "
        "sentence is lost",
        "unknown words": "official: with WordPiece, every unknown word of a sentence drops a word at its end from the "
        "local loss; clean: unknown words count as words",
        "zero-shot words": "official: zero-shot classification looks at as many places of a prompt as it has letters, "
        "the stop and empty places among them; clean: at its words",
    }

    options: Options

    def __init__(self, options: Options, encoder: Encoder) -> None:
        super().__init__(options, encoder)
        rows, columns = options.patch_size[0], options.patch_size[-1]
        self.framing = Framing(edge=options.image_size, crop=(rows, columns))
        text = text_encoder(
            options.text,
            width=options.text_width,
            layers=options.text_layers,
            heads=options.text_heads,
            positions=options.words,
        )
        self.tokeniser = text.tokeniser
        self.official = options.fidelity == "official"
        habits = {
            "edge": options.image_size,
            "crop": [rows, columns],
            "enlarge": options.enlarge,
            "words": options.words,
            "sharpness": options.sharpness,
            "official": self.official,
        }
        self.space = SharedSpace(encoder, text, habits)

    @classmethod
    def preparation(cls, options: SharedOptions) -> Callable[[Scan], Scan] | None:
        """Keep every picture as a small square."""
        return KeepSquare(options.image_size) if isinstance(options, Options) else None

    @classmethod
    def suit(cls, options: Any, records: Sequence[Record]) -> Any:
        """Refuse reports without a sentence."""
        require_reports(records, _has_sentence, "a sentence of two words or more")
        return options

    def phases(self) -> tuple[Phase, ...]:
        """Train everything on the pictures whose reports hold a sentence."""
        feed = Feed(self.views, self.options.batch_size, self.needs.unit, accepts=_has_sentence)
        return (Phase("pretrain", self.step, {"main": [self]}, {"scans": feed}),)

    def views(self, record: Record, rng: Generator) -> Sample:
        """Cut from a random place of the square, and draw a sentence."""
        said = self.said(record)
        place = int(torch.randint(len(said), (), generator=rng))
        return Sample(self.framing.draw(record, rng), *self.encode(said[place]))

    def said(self, record: Record) -> tuple[str, ...]:
        """Cut a report into the texts that a step may see."""
        found = sentences(
            record.source.report or "", stop_at=OFFICIAL_STOP if self.official else None
        )
        return found if self.options.sentence == "one" else (" ".join(found),)

    def encode(self, text: str) -> Tokens:
        """Encode a text; `used` are the places that the local loss looks at: the start and the words."""
        tokens = self.tokeniser.encode(text, self.options.words)
        unknown = (tokens.ids == self.tokeniser.unknown).sum() if self.official else 0
        return tokens._replace(used=tokens.used - unknown)

    def see(self, image: Tensor) -> Seen:
        """Compute regions and whole of ``batch channel rows columns``."""
        if self.options.enlarge:
            size = (self.options.enlarge, self.options.enlarge)
            image = F.interpolate(image, size=size, mode="bilinear", align_corners=True)
        return self.space.see(self.encoder(image))

    def scores(self, batch: Sample, *, everywhere: bool = False) -> tuple[Tensor, Tensor]:
        """Match all pictures with all texts, of this process or of all: global and local scores, ``image text``."""
        seen, read = self.see(batch.image), self.space.read(batch.ids, batch.words)
        images, texts, regions, words, used = (
            gather_rows(part) if everywhere else part
            for part in (seen.whole, read.whole, seen.regions, read.words, batch.used)
        )
        options = self.options
        local = local_scores(
            regions,
            words,
            used,
            sharpness=options.sharpness,
            peak=options.peak,
            agg=options.agg,
        )
        return global_scores(images, texts), local

    def step(self, batch: Sample) -> Iterator[Update]:
        """Tell every picture's sentence from those of the others, and the other way round."""
        options = self.options
        whole, local = (
            torch.stack(both_ways(each, options.factor)).sum()
            for each in self.scores(batch, everywhere=True)
        )
        loss = options.global_weight * whole + options.local_weight * local
        shows = {"global": whole, "local": local, "duplicates": same_text(batch.ids)[1]}
        yield Update(loss, shows=shows, clip=options.clip)

    def optimiser(
        self, name: str, modules: Iterable[nn.Module]
    ) -> tuple[torch.optim.Optimizer, Schedule]:
        """Make Adam as published; the rate falls on half a cosine (official: halves on a plateau)."""
        moved = parameters(modules)
        adam = torch.optim.Adam(moved, lr=self.options.lr, betas=(0.5, 0.999), weight_decay=1e-6)
        return adam, cosine()

    def score(self, batch: Sample) -> dict[str, Tensor]:
        """Measure the loss, how often the best match is right, and how even attention is (1: the same everywhere).

        A text that occurs twice in the batch counts as right for both pictures.
        """
        options = self.options
        whole, local = self.scores(batch)
        terms = [torch.stack(both_ways(each, options.factor)).sum() for each in (whole, local)]
        match = options.global_weight * whole + options.local_weight * local
        right, duplicates = same_text(batch.ids)
        weights, _ = self.look(batch)
        there = torch.arange(weights.shape[1], device=weights.device) < batch.used[:, None]
        nothing = 2 * (options.global_weight + options.local_weight) * math.log(len(right))
        return {
            "loss": options.global_weight * terms[0] + options.local_weight * terms[1],
            "loss_chance": torch.tensor(nothing),
            "found": found_share(match, right),
            "found_chance": right.float().mean(),
            "evenness": evenness(weights)[there].mean(),
            "duplicates": duplicates,
        }

    def look(self, batch: Sample) -> tuple[Tensor, tuple[int, ...]]:
        """Give the weights with which the words of each picture's own text attend to its regions, and their grid.

        ``batch word region``; rows beyond the words in use mean nothing.
        """
        seen, read = self.see(batch.image), self.space.read(batch.ids, batch.words)
        places = torch.arange(batch.words.shape[1], device=batch.used.device)
        used = places < batch.used[:, None]
        return attend(seen.regions, read.words, used, self.options.sharpness)[1], seen.grid

    def draw(self, batch: Sample, most: int) -> list[list[Tensor]]:
        """Draw each picture, then where so many of its words look: those with the highest weights, in their order.

        Captions are words that `unlabeled.nn.tokens.KNOWN` lists, else places in the sentence.
        """
        weights, grid = self.look(batch)
        drawn = []
        for row, image in enumerate(batch.image[:, 0]):
            told = self.tokeniser.tell(batch.ids[row], batch.words[row])
            last = int(batch.used[row])
            maps = weights[row, 1:last].view(last - 1, *grid)
            captions = [told[place] or f"word {place}" for place in range(1, len(maps) + 1)]
            drawn.append(decided(image, maps, captions, most))
        return drawn

    def preview(self, batch: Sample) -> dict[str, Tensor]:
        """Show pictures, and where the most decided words of their own sentences look."""
        columns = zip(*self.draw(batch, len(SHOWN) - 1), strict=True)
        return {name: torch.stack(column) for name, column in zip(SHOWN, columns, strict=True)}

    def product(self, record: Record) -> Product:
        """Draw where each word of each sentence of the scan's own report looks, and match them."""
        said = self.said(record) if record.source.report else ()
        if not said or not said[0]:
            raise DataError(
                "has no report with a sentence", "Name it in a manifest's column `report`."
            )
        device = self.space.whole.weight.device
        image = self.framing.centre(record)[None].to(device)
        pictures, match = {}, []
        for number, text in enumerate(said, start=1):
            batch = Sample(image, *(part[None].to(device) for part in self.encode(text)))
            (tiles,) = self.draw(batch, int(batch.used) - 1)
            pictures[f"sentence{number}"] = side_by_side(tiles)
            match.append(float(self.scores(batch)[0]))
        return Product(pictures=pictures, values={"match": sum(match) / len(match)})

    def carries(self) -> dict[str, nn.Module]:
        """Carry the encoder to any task, and the shared space to zero-shot classification."""
        return {"encoder": self.encoder, "space": self.space}


def _has_sentence(record: Record) -> bool:
    return bool(sentences(record.source.report or ""))
