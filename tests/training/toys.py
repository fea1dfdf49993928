"""Small methods that are easy to follow: one loss; two opponents; two phases with two streams."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor, nn

from unlabeled.data.sampling import draw_patch
from unlabeled.data.scan import Unit
from unlabeled.methods._base import (
    Count,
    Feed,
    Method,
    Monitor,
    Needs,
    Phase,
    SharedOptions,
    Update,
    parameters,
)
from unlabeled.nn.encoders import Encoder
from unlabeled.nn.schedules import cosine


class TinyEncoder(Encoder):
    """One convolution, one batch norm (a buffer that must be kept) and one drop-out (randomness inside a step)."""

    name = "tiny"
    entry = "conv"

    def __init__(self, dims: int = 3, in_channels: int = 1) -> None:
        super().__init__()
        self.dims, self.in_channels = dims, in_channels
        self.channels, self.strides = (4,), ((1,) * dims,)
        self.conv = (nn.Conv3d if dims == 3 else nn.Conv2d)(in_channels, 4, 3, padding=1)
        self.norm = (nn.BatchNorm3d if dims == 3 else nn.BatchNorm2d)(4)
        self.drop = nn.Dropout(0.2)

    def forward(self, image: Tensor) -> list[Tensor]:
        return [self.drop(torch.relu(self.norm(self.conv(image))))]


class Sample(NamedTuple):
    noisy: Tensor
    clean: Tensor


@dataclass(frozen=True, kw_only=True)
class ToyOptions(SharedOptions):
    patch_size: tuple[Count, ...] = (8, 8, 8)
    batch_size: Count = 4
    lr: float = 1e-2
    epochs: Count = 3
    patience: Count | None = None


class Toy(Method):
    """Restore a noisy patch."""

    needs = Needs(unit=Unit.VOLUME, dims=(2, 3))
    options_class = ToyOptions
    monitor = Monitor("mse", "lower", chance="variance")

    def __init__(self, options: SharedOptions, encoder: Encoder) -> None:
        super().__init__(options, encoder)
        self.head = (nn.Conv3d if encoder.dims == 3 else nn.Conv2d)(4, 1, 1)

    def views(self, record: Any, rng: Generator) -> Sample:
        clean = draw_patch(record, self.options.patch_size, rng)
        return Sample(clean + 0.1 * torch.randn(clean.shape, generator=rng), clean)

    def step(self, batch: Sample) -> Iterator[Update]:
        loss = (self.head(self.encoder(batch.noisy)[0]) - batch.clean).square().mean()
        yield Update(loss, shows={"level": batch.clean.mean()})

    def optimiser(self, name: str, modules: Any) -> Any:
        return torch.optim.Adam(parameters(modules), lr=self.options.lr), cosine()

    def score(self, batch: Sample) -> dict[str, Tensor]:
        restored = self.head(self.encoder(batch.noisy)[0])
        return {"mse": (restored - batch.clean).square().mean(), "variance": batch.clean.var()}

    def preview(self, batch: Sample) -> dict[str, Tensor]:
        return {"noisy": batch.noisy, "clean": batch.clean}


class Opponents(Toy):
    """A critic and a generator: two updates a step, in the order of the paper."""

    def __init__(self, options: SharedOptions, encoder: Encoder) -> None:
        super().__init__(options, encoder)
        self.critic = nn.Conv3d(1, 1, 3)
        self.seen: list[str] = []

    def phases(self) -> tuple[Phase, ...]:
        feed = Feed(self.views, self.options.batch_size)
        trains = {"critic": [self.critic], "generator": [self.encoder, self.head]}
        return (Phase("duel", self.step, trains, {"scans": feed}),)

    def step(self, batch: Sample) -> Iterator[Update]:
        before = self.critic.weight.detach().clone()
        fake = self.head(self.encoder(batch.noisy)[0])
        verdict = self.critic(batch.clean).mean() - self.critic(fake.detach()).mean()
        yield Update(verdict, of="critic", clip=1.0)
        self.seen.append("moved" if not torch.equal(before, self.critic.weight) else "still")
        yield Update((fake - batch.clean).abs().mean() + self.critic(fake).mean(), of="generator")


class Stages(Toy):
    """First the encoder on one stream, then the head on two streams; what lies between is kept in a buffer."""

    def __init__(self, options: SharedOptions, encoder: Encoder) -> None:
        super().__init__(options, encoder)
        self.register_buffer("background", torch.zeros(()))
        self.calls: list[str] = []

    def phases(self) -> tuple[Phase, ...]:
        feed = Feed(self.views, self.options.batch_size)
        few = Feed(self.views, 2, accepts=lambda record: record.subject.endswith("0"))
        return (
            Phase("first", self.step, {"main": [self.encoder, self.head]}, {"scans": feed}),
            Phase(
                "second",
                self.second,
                {"main": [self.head]},
                {"scans": feed, "few": few},
                share=2.0,
                before=self.rebuild,
            ),
        )

    def rebuild(self, records: Sequence[Any]) -> None:
        self.calls.append("rebuild")
        self.background.fill_(sum(p.sum() for p in self.parameters()).item())

    def second(self, batch: dict[str, Sample]) -> Iterator[Update]:
        with torch.no_grad():
            maps = self.encoder(batch["scans"].noisy)[0]
        loss = (self.head(maps) - batch["scans"].clean + 1e-3 * self.background).square().mean()
        yield Update(loss + batch["few"].noisy.mean())

    def score(self, batch: Any) -> dict[str, Tensor]:
        return super().score(batch["scans"] if isinstance(batch, dict) else batch)

    def preview(self, batch: Any) -> dict[str, Tensor]:
        return {}


class Pairs(Toy):
    """Each scan beside the one after it; the second phase has a score of its own; what the end makes is kept."""

    keeps = "best"

    def __init__(self, options: SharedOptions, encoder: Encoder) -> None:
        super().__init__(options, encoder)
        self.register_buffer("summary", torch.zeros(()))
        self.calls: list[str] = []

    def phases(self) -> tuple[Phase, ...]:
        feed = Feed(self.pair, self.options.batch_size, group=neighbours)
        parts = {"main": [self.encoder, self.head]}
        return (
            Phase("first", self.step, parts, {"pairs": feed}),
            Phase(
                "second",
                self.step,
                parts,
                {"pairs": feed},
                after=self.summarise,
                score=lambda batch: {"level": batch.noisy.mean()},
                preview=lambda batch: {"second": batch.clean},
                monitor=Monitor("level", "higher"),
            ),
        )

    def pair(self, item: tuple[Any, Any], rng: Generator) -> Sample:
        first, second = item
        size = self.options.patch_size
        return Sample(draw_patch(first, size, rng), draw_patch(second, size, rng))

    def summarise(self, records: Sequence[Any]) -> None:
        self.calls.append("summarise")
        self.summary.fill_(len(records) + sum(p.sum() for p in self.parameters()).item())


def neighbours(records: Sequence[Any]) -> list[tuple[Any, Any]]:
    return list(itertools.pairwise(records))


class Broken(Toy):
    """Its loss stops being a number."""

    def step(self, batch: Sample) -> Iterator[Update]:
        for update in super().step(batch):
            yield Update(update.loss / 0.0 * 0.0)
