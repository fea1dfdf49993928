"""REFERS: write the report of a study, and find it again (Zhou et al., Nature Machine Intelligence 2022).

Three views of a study go through one transformer.  Of view k there are patch tokens x_k and a class token c_k, which is
added to each of them; gates g_k, which see all views at the same place, let tokens through, and those of all views stand
one behind the other: [g_1 (x_1 + c_1), g_2 (x_2 + c_2), g_3 (x_3 + c_3)].  From them a decoder writes the report:

    L_gen = mean over pieces of -log p(piece | pieces before it, tokens)

Beside it, v = [c_1, c_2, c_3] is compared with the vector u of the report, by cosines s and a temperature tau:

    L_con = lam CE(s(v_i, u_k) / tau over reports k) + (1 - lam) CE(s(v_k, u_i) / tau over studies k)
    L = L_gen + L_con
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import torch
from torch import Generator, Tensor, nn

from unlabeled.data.reports import plain_words, require_reports
from unlabeled.data.scan import Scan, Unit
from unlabeled.data.store import Record
from unlabeled.data.studies import Study, group_studies
from unlabeled.errors import OptionError, ScanError
from unlabeled.losses.crossmodal import (
    both_ways,
    found_share,
    global_scores,
    same_text,
    writing_errors,
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
    patch_for,
)
from unlabeled.nn.encoders import Encoder
from unlabeled.nn.gathering import gather_rows
from unlabeled.nn.optimisers import Lookahead, decay_groups
from unlabeled.nn.report_decoder import ReportDecoder, from_the_end
from unlabeled.nn.report_encoder import report_encoder
from unlabeled.nn.schedules import Schedule, warm_squared_cosine
from unlabeled.nn.view_fusion import ViewFusion, look
from unlabeled.nn.vit import VisionTransformer
from unlabeled.options import Between, Count, NonNegative, Positive, Probability
from unlabeled.transforms.overlay import captioned, heat, written
from unlabeled.transforms.shrinking import KeepShrunk
from unlabeled.transforms.study_views import StudyViews

MOMENTUM = 0.9  # official code
SHOWN = 3  # studies of a preview, and views of each: writing reports takes long


@dataclass(frozen=True, kw_only=True)
class Options(SharedOptions):
    """Defaults of the official code unless another source is named.

    Parameters
    ----------
    patch_size
        Rows and columns of a view [pixel].
    epochs
        Passes over the studies (ours; official: 400,000 steps).
    batch_size
        Studies that are told apart in a step, over all devices (ours; the official configuration has 2, so that each is
        told from one other; the paper's number is unconfirmed).
    optimiser
        SGD with momentum as published, or AdamW (ours), which networks from scratch need; Lookahead is around either.
    lr
        Highest learning rate, for networks that were trained before; from scratch try 0.001 with AdamW (ours).
    encoder
        Network of the views; of one that is no transformer, the mean of the coarsest map stands for the class token.
    text_rate
        Learning rate of the report's encoder over that of the rest; from scratch try 1 (ours).
    warm_up
        Share of the training in which the rate rises from 0 (official: 10,000 of 400,000 steps).
    weight_decay
        Pull towards zero, of all but biases and normalisation.
    ahead, pull
        Lookahead: after so many steps, the share of the way that is gone.
    clip
        Largest norm of the gradient.
    image_size
        Shorter side to which larger pictures are scaled before anything else [pixel].
    views
        Views of a study, each of a radiograph drawn by itself.
    least_area
        Smallest area of a view over that of the radiograph.
    narrowest
        Smallest width of a view over its height, before it is scaled; the largest is 1.
    p_flip
        Probability of mirroring left and right, in the report as well.
    p_jitter
        Probability of changing a view's brightness and contrast.
    brightness, contrast
        Largest change of each factor.
    p_dropout
        Probability to drop a number, in the transformer of the views and in the decoder.
    words
        Longest report [piece]; the rest is cut off.
    text
        Folder of a BERT model to start the report's encoder from (official: Bio_ClinicalBERT); without it, one from
        scratch.
    text_width, text_layers, text_heads
        Sizes of a report's encoder from scratch (ours).
    decoder_width, decoder_layers, decoder_heads
        Sizes of the decoder that writes reports.
    both_directions
        Write reports from their end as well, by further layers.
    temperature
        tau, divides cosines.
    image_to_text
        lam, weight of finding a study's report; the rest is that of finding a report's study.
    detach_text_to_image
        Let the loss of finding a report's study train nothing, as in the official code.
    fidelity
        Mend the quirks of the official code, or reproduce them.
    """

    patch_size: tuple[Count, ...] = (224, 224)
    epochs: Count = 100
    batch_size: Count = 32
    optimiser: Literal["sgd", "adamw"] = "sgd"
    lr: Positive = 3e-3
    encoder: str = "vit"
    text_rate: Positive = 0.1
    warm_up: Annotated[float, Between(0, 0.9)] = 0.025
    weight_decay: NonNegative = 1e-4
    ahead: Count = 5
    pull: Annotated[float, Between(1e-3, 1)] = 0.5
    clip: Positive = 10.0
    image_size: Count = 320
    views: Count = 3
    least_area: Annotated[float, Between(1e-3, 1)] = 0.05
    narrowest: Annotated[float, Between(0.01, 1)] = 0.6
    p_flip: Probability = 0.5
    p_jitter: Probability = 0.8
    brightness: NonNegative = 0.4
    contrast: NonNegative = 0.4
    p_dropout: Annotated[float, Between(0, 0.9)] = 0.1
    words: Annotated[int, Between(3)] = 100
    text: str = ""
    text_width: Count = 256
    text_layers: Count = 4
    text_heads: Count = 4
    decoder_width: Count = 1024
    decoder_layers: Count = 1
    decoder_heads: Count = 16
    both_directions: bool = False
    temperature: Positive = 0.1
    image_to_text: Probability = 0.75
    detach_text_to_image: bool = False
    fidelity: Literal["clean", "official"] = "clean"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.text and not Path(self.text).is_dir():
            raise OptionError(
                f"--text {self.text} is no folder",
                "Give the folder of a BERT model: config.json, vocab.txt and its tensors.",
            )


class Sample(NamedTuple):
    """Views of a study, ``*batch view channel rows columns`` in [0, 1], and its report, ``*batch piece``."""

    images: Tensor
    ids: Tensor


class Seen(NamedTuple):
    """A study: its vector ``batch view*width``, tokens ``batch view*token width``, gates ``batch view token``, their grid."""

    study: Tensor
    tokens: Tensor
    gates: Tensor
    grid: tuple[int, ...]


class Refers(Method):
    """One encoder sees the views of a study; a decoder writes its report, and another encoder reads it."""

    needs: ClassVar[Needs] = Needs(unit=Unit.STUDY, dims=(2,), metadata=("report",))
    options_class: ClassVar[type[SharedOptions]] = Options
    monitor: ClassVar[Monitor] = Monitor("found", "higher", chance="found_chance")
    makes: ClassVar[str] = "a report of general words, as its decoder writes it"
    quirks: ClassVar[Mapping[str, str]] = {
        "text to image": "official: the loss of finding a report's study is a plain number and trains nothing; clean: it "
        "trains",
        "mirrored views": "official: each view is mirrored by itself, and the report follows the first; clean: all views "
        "of a study or none",
        "sides": "official: the letters left and right are exchanged, inside other words too; clean: the words",
        "unknown words": "official: with WordPiece, unknown words need not be written, as padding; clean: they count",
    }

    options: Options

    def __init__(self, options: Options, encoder: Encoder) -> None:
        super().__init__(options, encoder)
        rows, columns = patch_for(encoder, options.patch_size)
        self.official = options.fidelity == "official"
        self.draw = StudyViews(
            size=(rows, columns),
            count=options.views,
            least_area=options.least_area,
            narrowest=options.narrowest,
            p_flip=options.p_flip,
            p_jitter=options.p_jitter,
            brightness=options.brightness,
            contrast=options.contrast,
            together=not self.official,
        )
        if isinstance(encoder, VisionTransformer):
            encoder.drop(options.p_dropout)
        width = encoder.channels[-1]
        self.fusion = ViewFusion(options.views, width)
        self.report = report_encoder(
            options.text,
            options.views * width,
            width=options.text_width,
            layers=options.text_layers,
            heads=options.text_heads,
            positions=options.words,
        )
        self.tokeniser = self.report.tokeniser
        self.decoder = ReportDecoder(
            width,
            self.tokeniser.size,
            padding=self.tokeniser.padding,
            positions=options.words,
            width=options.decoder_width,
            layers=options.decoder_layers,
            heads=options.decoder_heads,
            p_dropout=options.p_dropout,
            backwards=options.both_directions,
        )

    @classmethod
    def preparation(cls, options: SharedOptions) -> Callable[[Scan], Scan] | None:
        """Keep every larger picture small."""
        return KeepShrunk(options.image_size) if isinstance(options, Options) else None

    @classmethod
    def require(cls, record: Record, options: Any) -> None:
        """Refuse volumes."""
        if record.dims != 2:
            raise ScanError(
                "is a volume, and pictures are wanted", "Give radiographs or other pictures."
            )

    @classmethod
    def suit(cls, options: Any, records: Sequence[Record]) -> Any:
        """Refuse reports without a word."""
        require_reports(records, _has_words, "a word")
        return options

    def phases(self) -> tuple[Phase, ...]:
        """Train everything on studies: pictures of one visit with the same report."""
        feed = Feed(
            self.views,
            self.options.batch_size,
            self.needs.unit,
            accepts=_has_words,
            group=group_studies,
        )
        return (Phase("pretrain", self.step, {"main": [self]}, {"scans": feed}),)

    def views(self, study: Study, rng: Generator) -> Sample:  # type: ignore[override]
        """Draw views of a study, and mirror its report with them; held-out pictures are seen whole and as they are."""
        images, report = self.draw(study, rng) if self.training else self.draw.whole(study)
        return Sample(images, self.tokeniser.encode(report, self.options.words).ids)

    def see(self, images: Tensor) -> Seen:
        """Look at ``batch view channel rows columns``."""
        batch, views = images.shape[:2]
        whole, tokens, grid = look(self.encoder, images.flatten(0, 1))
        summed = (tokens + whole[:, None]).reshape(batch, views, *tokens.shape[1:])
        fused, gates = self.fusion(summed)
        return Seen(whole.reshape(batch, -1), fused, gates, grid)

    def writing(self, tokens: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Measure what writing each report costs, and how many pieces it has: ``batch`` each."""
        marks = self.tokeniser
        ids = ids[:, : int((ids != marks.padding).sum(1).max())]
        ignored = (marks.padding, *([marks.unknown] if self.official else ()))
        costs, pieces = writing_errors(self.decoder(tokens, ids), ids, ignored)
        if self.options.both_directions:
            turned = from_the_end(ids, marks.padding)
            said = self.decoder(tokens, turned, backwards=True)
            costs = costs + writing_errors(said, turned, ignored)[0]
        return costs, pieces

    def matching(self, scores: Tensor) -> Tensor:
        """Compute L_con from cosines ``study report``."""
        to_text, to_image = both_ways(scores, 1 / self.options.temperature)
        if self.official or self.options.detach_text_to_image:
            to_image = to_image.detach()
        share = self.options.image_to_text
        return share * to_text + (1 - share) * to_image

    def step(self, batch: Sample) -> Iterator[Update]:
        """Write every study's report, and find it among those of all."""
        seen = self.see(batch.images)
        study, report = gather_rows(seen.study), gather_rows(self.report(batch.ids))
        matching = self.matching(global_scores(study, report))
        costs, pieces = (gather_rows(each) for each in self.writing(seen.tokens, batch.ids))
        writing = costs.sum() / pieces.sum().clamp(min=1)
        shows = {"matching": matching, "writing": writing, "duplicates": same_text(batch.ids)[1]}
        yield Update(writing + matching, shows=shows, clip=self.options.clip)

    def optimiser(
        self, name: str, modules: Iterable[nn.Module]
    ) -> tuple[torch.optim.Optimizer, Schedule]:
        """Make SGD (or AdamW) with Lookahead; a tenth of the rate for the report's encoder, no decay for biases and normalisation."""
        own = self.options
        others = [each for each in self.children() if each is not self.report]
        groups = [
            {**group, "lr": rate}
            for part, rate in ((others, own.lr), ([self.report], own.lr * own.text_rate))
            for group in decay_groups(part, own.weight_decay)
        ]
        if self.options.optimiser == "sgd":
            inner: torch.optim.Optimizer = torch.optim.SGD(
                groups, lr=self.options.lr, momentum=MOMENTUM
            )
        else:
            inner = torch.optim.AdamW(groups, lr=self.options.lr)
        ahead = Lookahead(inner, every=self.options.ahead, pull=self.options.pull)
        return ahead, warm_squared_cosine(self.options.warm_up)

    def score(self, batch: Sample) -> dict[str, Tensor]:
        """Measure how often the best match is right, and what writing a piece costs.

        ``writing_others`` is what it costs with the images of another study: a decoder that looks at images pays more.
        A report that occurs twice in the batch counts as right for both studies.
        """
        seen = self.see(batch.images)
        scores = global_scores(seen.study, self.report(batch.ids))
        right, duplicates = same_text(batch.ids)
        costs, pieces = self.writing(seen.tokens, batch.ids)
        others, _ = self.writing(seen.tokens.roll(1, 0), batch.ids)
        writing = costs.sum() / pieces.sum().clamp(min=1)
        return {
            "loss": writing + self.matching(scores),
            "found": found_share(scores, right),
            "found_chance": right.float().mean(),
            "writing": writing,
            "writing_others": others.sum() / pieces.sum().clamp(min=1),
            "gate_spread": seen.gates.float().std(correction=0),
            "duplicates": duplicates,
        }

    def write(self, tokens: Tensor) -> list[str]:
        """Write reports of general words; what stands between them is three points."""
        marks = self.tokeniser
        ids = self.decoder.write(
            tokens, start=marks.start, stop=marks.stop, length=self.options.words
        )
        return [self.spell(each) for each in ids]

    def spell(self, ids: Tensor) -> str:
        """Spell the general words of a report; other words, however many in a row, are three points."""
        told = [word or "..." for word in self.tokeniser.told(ids)]
        return " ".join(
            word
            for word, again in zip(told, ["", *told], strict=False)
            if again != word or word != "..."
        )

    def preview(self, batch: Sample) -> dict[str, Tensor]:
        """Show views with their gates (red, yellow: let through), the report's general words, and what is written."""
        first, ids = (part[:SHOWN] for part in batch)
        seen = self.see(first)
        said = self.write(seen.tokens)
        sheets = []
        for row, images in enumerate(first):
            tiles = {
                f"view {number}": captioned(
                    heat(view[0].cpu(), gates.view(seen.grid).float().cpu()),
                    f"gates, view {number}",
                )
                for number, (view, gates) in enumerate(
                    zip(images[:SHOWN], seen.gates[row, :SHOWN], strict=True), 1
                )
            }
            tiles["report"] = written(self.spell(ids[row]), "the report")
            tiles["written"] = written(said[row], "written")
            sheets.append(tiles)
        return {name: torch.stack([tiles[name] for tiles in sheets]) for name in sheets[0]}

    def product(self, record: Record) -> Product:
        """Write the report of one picture, as of a study of its own."""
        device = self.fusion.gate.weight.device
        images, _ = self.draw.whole(Study((record,), ""))
        (report,) = self.write(self.see(images[None].to(device)).tokens)
        return Product(values={"report": report})


def _has_words(record: Record) -> bool:
    return bool(plain_words(record.source.report or ""))
