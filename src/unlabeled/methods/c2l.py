"""Comparing to Learn: tell a radiograph's other view from other radiographs, and mixed ones too (Zhou et al., MICCAI 2020).

A student S and its momentum copy T, the teacher, see two views x1 and x2 of every radiograph of a batch.  Both views
are also mixed with those of another radiograph, with the same weight lam and the same partners.  Three pairs are told
from a queue n of earlier keys, all of unit length:

    q  = S(x1)      and  k    = T(x2)
    qm = S(mix(x1)) and  km   = T(mix(x2))
    qm              and  kmix = mix(T(x2))      (mixed first, then brought to unit length)

    L = (l(q, k) + l(qm, km) + l(qm, kmix)) / 3
    l(q, k) = -log exp(q.k / temperature) / (exp(q.k / temperature) + sum_j exp(q.n_j / temperature))
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Generator, Tensor, nn

from unlabeled.data.scan import Unit
from unlabeled.data.store import Record
from unlabeled.errors import OptionError
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
from unlabeled.methods._key_contrast import Criterion, KeyContrast, PairOptions, find_again, unit
from unlabeled.nn.encoders import Encoder
from unlabeled.nn.heads import ClassificationHead
from unlabeled.nn.momentum import Teacher
from unlabeled.nn.schedules import Schedule, stepping
from unlabeled.options import Count, Positive
from unlabeled.rng import derive
from unlabeled.transforms.cutout import GREY, Cutout
from unlabeled.transforms.jitter import Jitter
from unlabeled.transforms.mixing import Mixing
from unlabeled.transforms.rigid import Mirror, Rotate
from unlabeled.transforms.zooming import ZoomCrop

WEIGHT_DECAY = 1e-4  # official code


@dataclass(frozen=True, kw_only=True)
class Options(PairOptions):
    """Defaults of the official code unless another source is named.

    Parameters
    ----------
    patch_size
        Rows and columns of a view [pixel].
    batch_size
        Radiographs a step (the official README).
    falls
        Epochs after which the learning rate is a tenth.
    hidden
        Width of a hidden layer before the embedding; without it, as published, the projection is linear.
    criterion
        Softmax over the pair and the queue, or NCE, which the official README trains with; softmax is the default
        here (ours), as the published NCE stops with an error.
    eps
        Of NCE; not defined in the official code, 1e-5 in the sibling code of PCRL.
    """

    patch_size: tuple[Count, ...] = (224, 224)
    batch_size: Count = 128
    epochs: Count = 120
    lr: Positive = 0.03
    falls: tuple[Count, ...] = (60, 80, 100)
    encoder: str = "resnet18"
    hidden: Count | None = None
    temperature: Positive = 0.07
    criterion: Criterion = "softmax"


class Sample(NamedTuple):
    """Two views of a radiograph, ``*batch channel rows columns`` in [0, 1], and a number that tells radiographs apart."""

    first: Tensor
    second: Tensor
    radiograph: Tensor


class ComparingToLearn(Method):
    """Student and teacher compare views, mixed views, and mixed views with mixed features."""

    needs: ClassVar[Needs] = Needs(unit=Unit.IMAGE, dims=(2,), subjects=2)
    options_class: ClassVar[type[SharedOptions]] = Options
    monitor: ClassVar[Monitor] = Monitor("retrieval", "higher", chance="chance")
    quirks: ClassVar[Mapping[str, str]] = {
        "queue": "official: each pair's keys are pushed before the next pair is compared, so that a batch's own keys "
        "are among its negatives; clean: all three are pushed after the step",
        "first rows of the queue": "official: uniform numbers, of length about 1; clean: directions of length 1",
        "Z of NCE": "official: cut to a whole number; clean: as it is",
    }

    options: Options

    def __init__(self, options: Options, encoder: Encoder) -> None:
        super().__init__(options, encoder)
        size = options.patch_size[:2]
        if len(size) < 2:
            fact = f"--patch-size has {len(size)} edge, and a radiograph has 2 axes"
            raise OptionError(fact, f"Give --patch-size {size[0]} {size[0]}.")
        self.projector = ClassificationHead(encoder, options.features, hidden=options.hidden)
        self.teacher = Teacher(encoder, self.projector)
        self.pairs = KeyContrast(options)
        self.crop = ZoomCrop((size[0], size[1]), least=options.least_area)
        self.turn = Rotate(options.degrees)
        self.jitter = Jitter(options.brightness, options.contrast)
        self.cut = Cutout(
            options.holes, options.hole_size, fill=GREY
        )  # 0 in the official code, which standardises pictures before

    def phases(self) -> tuple[Phase, ...]:
        """Train student and projection in one stage; the teacher starts as their copy, whatever they started from."""
        feed = Feed(self.views, self.options.batch_size, self.needs.unit)
        return (Phase("pretrain", self.step, {"main": [self]}, {"scans": feed}, before=self.begin),)

    def begin(self, records: Sequence[Record]) -> None:
        """Copy the student, and count what there is to learn from."""
        self.teacher.follow(self.encoder, self.projector, momentum=0)
        self.pairs.images.fill_(len(records))

    def views(self, record: Record, rng: Generator) -> Sample:
        """Make two views; of a volume, of the same random axial slice."""
        plane = [int(torch.randint(edge, (), generator=rng)) for edge in record.space[2:]]
        number = torch.tensor(derive(0, record.source.name, *plane))
        return Sample(self.view(record, plane, rng), self.view(record, plane, rng), number)

    def view(self, record: Record, plane: Sequence[int], rng: Generator) -> Tensor:
        """Cut and scale a box, rotate it, change brightness and contrast, mirror it, cut holes."""
        start, edges = self.crop.draw(record.space[:2], rng)
        box = record.patch((*start, *plane), (*edges, *(1 for _ in plane)))
        view = self.turn(self.crop.resize(box.reshape(len(box), *edges)), rng)
        across = 0 if plane else 1  # left and right: columns of a picture, the first axis of RAS
        view = Mirror(self.options.p_flip, across)(self.jitter(view, rng), rng)
        return self.cut(view, rng)

    def student(self, views: Tensor) -> Tensor:
        """Embed views as the student does, ``batch features`` of unit length."""
        return unit(self.projector(self.encoder(views)))

    def step(self, batch: Sample) -> Iterator[Update]:
        """Compare views, mixed views, and mixed views with mixed features."""
        mix = Mixing.draw(len(batch.first), self.options.mixing)
        query, mixed_query = self.student(batch.first), self.student(mix(batch.first))
        clean, mixed = self.teacher(batch.second), self.teacher(mix(batch.second))
        keys = [unit(clean), unit(mixed), unit(mix(clean.float()))]
        terms = self.pairs.compare([query, mixed_query, mixed_query], keys)
        names = ("clean", "mixed", "mixed features")
        yield Update(torch.stack(terms).mean(), shows=dict(zip(names, terms, strict=True)))
        self.teacher.follow(self.encoder, self.projector, momentum=self.options.momentum)
        self.pairs.remember(torch.cat(keys))

    def optimiser(
        self, name: str, modules: Iterable[nn.Module]
    ) -> tuple[torch.optim.Optimizer, Schedule]:
        """Make SGD with momentum and weight decay; the rate falls to a tenth after each of some epochs."""
        moved, lr = parameters(modules), self.options.lr
        made = torch.optim.SGD(moved, lr=lr, momentum=0.9, weight_decay=WEIGHT_DECAY)
        return made, stepping(self.options.falls)

    def score(self, batch: Sample) -> dict[str, Tensor]:
        """Find each first view's radiograph among the second views of the batch.

        ``retrieval`` is the share found and ``chance`` that of guessing; ``interpolation`` is the cosine between the
        student's feature of two views half and half and the teacher's features half and half; ``spread`` is 0 where all
        features are equal, 1 where they point anywhere.
        """
        query, clean = self.student(batch.first), self.teacher(batch.second).float()
        _, found = find_again(query, unit(clean), batch.radiograph)
        half = Mixing.evenly(len(query))
        mixed = self.student(half(batch.first))
        return {
            **found,
            "interpolation": (mixed * unit(half(clean))).sum(1).mean(),
            "spread": query.std(0, correction=0).square().sum().sqrt(),
        }

    def preview(self, batch: Sample) -> dict[str, Tensor]:
        """Show a view, its other view, which of the other views the features take for it, and the view mixed."""
        first, second, number = batch
        nearest, _ = find_again(self.student(first), unit(self.teacher(second)), number)
        found, mixed = second[nearest], Mixing.evenly(len(first))(first)
        captions = ("view", "other view", "found as other view", "mixed with another")
        return dict(zip(captions, (first, second, found, mixed), strict=True))
