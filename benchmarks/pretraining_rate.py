"""Does the loop keep the networks busy?  Pretraining against bare forward-backward-step on a fixed batch.

    python benchmarks/pretraining_rate.py [--full]

Both run the same method on the same device in one process, a few steps of each in turn; a round's ratio is bare time over
pretraining time, and the median of the rounds is the figure (1.0: the loop costs nothing; the aim is 0.95).  Pretraining includes
drawing patches from the prepared store, the deformations, logging, schedules.  ``--full`` takes the paper's sizes, for a GPU.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from _common import keep

from unlabeled.data.index import index_scans
from unlabeled.data.store import Store
from unlabeled.demo.phantoms import write_patients
from unlabeled.methods._base import Method
from unlabeled.methods._registry import find
from unlabeled.training.engine import train
from unlabeled.training.log import RunFolder
from unlabeled.training.pretrain import build_method
from unlabeled.training.settings import Settings, make_fabric

SMALL = {
    "models-genesis 3D unet": (3, {"encoder": "unet", "patch_size": (16, 16, 16), "batch_size": 2}),
    "models-genesis 3D resenc-tiny": (
        3,
        {"encoder": "resenc-tiny", "patch_size": (32, 32, 32), "batch_size": 2},
    ),
    "models-genesis 2D unet": (2, {"encoder": "unet", "patch_size": (64, 64), "batch_size": 2}),
    "models-genesis 2D resnet18": (
        2,
        {"encoder": "resnet18", "patch_size": (96, 96), "batch_size": 4},
    ),
}
FULL = {
    "models-genesis 3D unet": (3, {"encoder": "unet", "patch_size": (64, 64, 32), "batch_size": 6}),
    "models-genesis 3D resenc-l": (
        3,
        {"encoder": "resenc-l", "patch_size": (96, 96, 96), "batch_size": 4},
    ),
    "models-genesis 2D unet": (2, {"encoder": "unet", "patch_size": (256, 256), "batch_size": 16}),
}


def bare_times(method: Method, batch: Any, fabric: Any, steps: int) -> float:
    """Seconds of a bare step, the mean over a few."""
    phase = method.phases()[0]
    optimiser, _ = method.optimiser("main", phase.trains["main"])
    method.train()
    began = 0.0
    for number in range(steps + 1):
        if number == 1:
            synchronise(fabric)
            began = time.perf_counter()
        with fabric.autocast():
            update = next(iter(phase.step(batch)))
        optimiser.zero_grad()
        update.loss.backward()
        optimiser.step()
    synchronise(fabric)
    return (time.perf_counter() - began) / steps


def loop_times(
    method: Method, records: Any, settings: Settings, folder: RunFolder, made: Any, steps: int
) -> tuple[float, float]:
    """Seconds of a step of the whole loop, the mean over a few, and the share of waiting."""
    marks: list[float] = []
    inner = method.step
    fabric, arithmetic = made

    def marked(batch: Any) -> Any:
        if len(marks) in (1, steps + 1):
            synchronise(fabric)
        marks.append(time.perf_counter())
        yield from inner(batch)

    method.step = marked  # type: ignore[method-assign]
    result = train(method, records, (), settings, folder, fabric=fabric, arithmetic=arithmetic)
    method.step = inner  # type: ignore[method-assign]
    return (marks[steps + 1] - marks[1]) / steps, result.wait_share


def synchronise(fabric: Any) -> None:
    if fabric.device.type == "cuda":
        torch.cuda.synchronize()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--workers", type=int)
    parser.add_argument("--name", default="pretraining_rate")
    asked = parser.parse_args()
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as place:
        for label, (dims, values) in (FULL if asked.full else SMALL).items():
            edge = max(values["patch_size"]) + 32
            scans = Path(place, f"scans{dims}-{edge}")
            if not scans.exists():
                write_patients(scans, patients=8, shape=(edge,) * dims, kind="brightness")
            slug = label.split()[0]
            kind = find(slug)
            options = kind.options_class(steps=asked.steps + 2, dims=dims, **values)
            records = (
                Store(Path(place, "cache"))
                .prepare(index_scans(scans).sources, rule=kind.intensity(options))
                .records
            )
            settings = Settings(quiet=True, workers=asked.workers, checkpoint_minutes=60)
            made = make_fabric(settings)
            method = build_method(kind, options, dims=dims, channels=1)
            loops, bares, waits = [], [], []
            for round_ in range(asked.rounds + 1):
                folder = RunFolder(Path(place, f"{label}-{round_}"))
                folder.create(resume=False)
                seconds, wait = loop_times(method, records, settings, folder, made, asked.steps)
                sample = next(iter(method.phases()[0].feeds.values()))
                batch = fixed_batch(sample, records, options.batch_size, made[0])
                bare = bare_times(method, batch, made[0], asked.steps)
                if round_:
                    loops.append(seconds)
                    bares.append(bare)
                    waits.append(wait)
            ratios = [b / s for b, s in zip(bares, loops, strict=True)]
            figures[label] = {
                **{name: list(v) if isinstance(v, tuple) else v for name, v in values.items()},
                "bare_step_s": statistics.median(bares),
                "loop_step_s": statistics.median(loops),
                "loop_rate_over_bare_rate": statistics.median(ratios),
                "wait_share": statistics.median(waits),
            }
    keep(asked.name, figures)


def fixed_batch(feed: Any, records: Any, count: int, fabric: Any) -> Any:
    from torch.utils.data import default_collate

    from unlabeled.rng import generator

    samples = [feed.views(records[k % len(records)], generator(0, k)) for k in range(count)]
    return fabric.to_device(default_collate(samples))


if __name__ == "__main__":
    main()
