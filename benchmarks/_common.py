"""What every benchmark shares: a fair alternation, medians, and the facts of the machine."""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from unlabeled.training.facts import cpu_name

RESULTS = Path(__file__).resolve().parent / "results"


def alternate(
    candidates: Mapping[str, Callable[[], Any]],
    rounds: int,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Time every candidate once a round, in turn, after one warm-up each [s]."""
    for run in candidates.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(rounds):
        for name, run in candidates.items():
            began = clock()
            run()
            seconds[name].append(clock() - began)
    return seconds


def median_ratio(first: list[float], second: list[float]) -> float:
    """Median of the ratios round by round: drifts of the machine cancel."""
    return statistics.median(a / b for a, b in zip(first, second, strict=True))


def machine() -> dict[str, Any]:
    """Facts that a figure cannot be read without."""
    return {
        "processor": cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def keep(name: str, figures: Mapping[str, Any]) -> None:
    """Write figures to ``results/NAME.json`` and print them."""
    RESULTS.mkdir(exist_ok=True)
    text = json.dumps({"machine": machine(), **figures}, indent=2)
    (RESULTS / f"{name}.json").write_text(text + "\n")
    print(text)
