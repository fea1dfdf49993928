"""Contrastive losses, forward and backward: ours against lightly's NTXentLoss.

Both run in one process on the same embeddings, in turn, on one thread: processor times, medians over rounds; a ratio is theirs
over ours.  ``in batch`` is NT-Xent between two views (SimCLR), ``queue`` compares with stored keys (MoCo): ours includes pushing the
batch's keys into a queue of ours, as theirs updates its memory bank.  Loss and gradients must agree before anything is timed.

lightly is for this benchmark only and belongs into a folder of its own; of it, the loss and the two modules that it imports are
loaded, and nothing that asks for torchvision::

    pip install --target FOLDER --no-deps lightly==1.5.22
    python benchmarks/contrastive.py FOLDER
"""

from __future__ import annotations

import argparse
import importlib
import re
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from _common import alternate, keep, median_ratio
from torch import Tensor

from unlabeled.losses.contrastive import info_nce, nt_xent
from unlabeled.nn.queue import Queue

DIM = 128


def load_lightly(folder: Path) -> tuple[Any, str]:
    """Load lightly's loss from a folder; packages on the way to it are entered without running their own imports."""
    for name in ("", ".loss", ".models", ".models.modules", ".utils"):
        package = ModuleType(f"lightly{name}")
        package.__path__ = [str(folder.joinpath("lightly", *name.split(".")[1:]))]
        sys.modules[f"lightly{name}"] = package
    # the memory bank asks it for one function, which runs with several processes only
    sys.modules["lightly.models.utils"] = ModuleType("lightly.models.utils")
    sys.modules["lightly.models"].utils = sys.modules["lightly.models.utils"]  # type: ignore[attr-defined]
    loss = importlib.import_module("lightly.loss.ntx_ent_loss").NTXentLoss
    if "torchvision" in sys.modules:
        raise SystemExit("lightly's loss brought torchvision along")
    (version,) = (
        match[1]
        for path in folder.glob("lightly-*.dist-info")
        if (match := re.search(r"-(\d.*)\.dist", path.name))
    )
    return loss, version


def pass_through(loss: Callable[..., Tensor], *inputs: Tensor) -> Callable[[], tuple[Tensor, ...]]:
    """Make a function that computes loss and gradients anew."""

    def run() -> tuple[Tensor, ...]:
        for each in inputs:
            each.grad = None
        value = loss(*inputs)
        value.backward()
        moves = [each.grad for each in inputs if each.grad is not None]
        return (value.detach(), *moves)

    return run


def compare(theirs: Callable[[], Any], ours: Callable[[], Any], rounds: int) -> dict[str, Any]:
    """Give times [ms], their ratio and the largest disagreement of loss and gradients (one pass each must be alike)."""
    apart = [float((a - b).abs().max()) for a, b in zip(theirs(), ours(), strict=True)]
    if max(apart) > 1e-5:
        raise SystemExit(f"the losses or gradients differ by {max(apart)}")
    seconds = alternate({"lightly": theirs, "ours": ours}, rounds, time.process_time)
    return {
        "ms": {name: 1e3 * statistics.median(taken) for name, taken in seconds.items()},
        "speed_ratio": median_ratio(seconds["lightly"], seconds["ours"]),
        "loss_differs_by": apart[0],
        "gradients_differ_by": max(apart[1:]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("lightly", type=Path)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--queue", type=int, default=16384)
    parser.add_argument("--rounds", type=int, default=100)
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    kind, version = load_lightly(given.lightly)
    first, second = (torch.randn(given.batch, DIM, requires_grad=True) for _ in range(2))
    in_batch = compare(
        pass_through(kind(0.5), first, second),
        pass_through(lambda a, b: nt_xent(a, b, 0.5), first, second),
        given.rounds,
    )
    theirs, ours = kind(0.07, (given.queue, DIM)), Queue(given.queue, DIM)
    ours.rows.copy_(theirs.memory_bank.bank)
    keys = second.detach()

    def queued(query: Tensor) -> Tensor:
        key = F.normalize(keys, dim=1)
        loss = info_nce(F.normalize(query, dim=1), key, ours.rows, 0.07)
        ours.push(key)
        return loss

    queue = compare(
        pass_through(lambda query: theirs(query, keys), first),
        pass_through(queued, first),
        max(1, given.rounds // 3),
    )
    figures = {
        "lightly": version,
        "batch": given.batch,
        "dim": DIM,
        "in batch": in_batch,
        "queue": {"queued": given.queue, **queue},
        "goals": {"speed_ratio": 2, "loss_differs_by": 1e-5},
    }
    keep("contrastive", figures)


if __name__ == "__main__":
    main()
