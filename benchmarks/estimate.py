"""Is an estimate true?  `unlabeled estimate` beside the whole run that it is about: time, memory, disk.

    python benchmarks/estimate.py [--only SLUG] [--trial-seconds S] [--name NAME]

Each run is a command of its own with an empty cache; its time is that of the clock from start to exit, its memory the largest resident
set that the system noted (all make their samples in the training process), its disk the bytes of the run folder and of the cache.
Ratios are estimate over run; the aim is 0.75 to 1.25.  Where other programs come or go between the trial and the run, the ratio of
times holds that too, so the processors that each had on average are noted, and the ratio as if both had had as many.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from _common import keep

from unlabeled.demo.phantoms import write_patients
from unlabeled.training.estimate import TRIAL_SECONDS, estimate

CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    # slug: scans, options
    "models-genesis": (
        {"patients": 24, "shape": (48, 48, 48)},
        {"encoder": "resenc-tiny", "patch_size": (32, 32, 32), "batch_size": 2, "steps": 80},
    ),
    "c2l": (
        {"patients": 60, "shape": (128, 128)},
        {"patch_size": (64, 64), "batch_size": 8, "queue": 256, "steps": 60},
    ),
    "global-local-contrast": (
        {"patients": 10, "shape": (64, 64, 24)},
        {"patch_size": (64, 64), "batch_size": 2, "local_batch_size": 4, "steps": 60},
    ),
}


def command(slug: str, scans: Path, place: Path, values: dict[str, Any]) -> list[str]:
    """The whole run, as a person types it."""
    words = [sys.executable, "-m", "unlabeled", "pretrain", slug, str(scans), "--quiet"]
    words += ["--out", str(place / "run"), "--cache", str(place / "cache")]
    for name, value in values.items():
        many = value if isinstance(value, tuple) else (value,)
        words += [f"--{name.replace('_', '-')}", *map(str, many)]
    return words


def bytes_below(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def run_whole(slug: str, scans: Path, place: Path, values: dict[str, Any]) -> dict[str, float]:
    """Time, memory and disk of the run itself."""
    began = time.perf_counter()
    process = subprocess.Popen(command(slug, scans, place, values))
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)  # known to it only through its own wait
    seconds = time.perf_counter() - began
    if status:
        raise SystemExit(f"the run of {slug} ended with status {status}")
    return {
        "seconds": seconds,
        "processor_seconds": used.ru_utime + used.ru_stime,
        "memory": used.ru_maxrss * 1024,
        "store": bytes_below(place / "cache"),
        "run": bytes_below(place / "run"),
    }


def compare(slug: str, place: Path, trial_seconds: float) -> dict[str, Any]:
    """Estimate, run, and set one beside the other."""
    how, values = CASES[slug]
    scans = place / "scans"
    write_patients(scans, **how)
    began = time.perf_counter()
    guess = estimate(slug, scans, cache=place / "cache", trial_seconds=trial_seconds, **values)
    took = time.perf_counter() - began
    if (place / "cache").exists():
        raise SystemExit("the estimate left something in the cache")
    whole = run_whole(slug, scans, place, values)
    its = guess.forecast
    longest = max(guess.measured.phases, key=lambda phase: phase.steps * phase.step)
    had = {"trial": longest.processors, "run": whole["processor_seconds"] / whole["seconds"]}
    ratios = {
        "time": guess.seconds / whole["seconds"],
        "time with equal processors": guess.seconds / whole["seconds"] * had["trial"] / had["run"],
        "memory": guess.memory / whole["memory"],
        "disk": guess.disk / (whole["store"] + whole["run"]),
        "store": its.store_bytes / whole["store"],
        "run": its.run_bytes / whole["run"],
    }
    return {
        "scans": {
            name: value if isinstance(value, int) else list(value) for name, value in how.items()
        },
        "options": {n: list(v) if isinstance(v, tuple) else v for n, v in values.items()},
        "trial_s": took,
        "estimate": {
            "seconds": guess.seconds,
            "low": its.low,
            "high": its.high,
            "memory": guess.memory,
            "store": its.store_bytes,
            "run": its.run_bytes,
        },
        "run": whole,
        "estimate_over_run": ratios,
        "processors": had,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=CASES)
    parser.add_argument("--trial-seconds", type=float, default=TRIAL_SECONDS)
    parser.add_argument("--name", default="estimate")
    asked = parser.parse_args()
    figures = {}
    for slug in CASES if asked.only is None else [asked.only]:
        with tempfile.TemporaryDirectory() as place:
            figures[slug] = compare(slug, Path(place), asked.trial_seconds)
        keep(asked.name, figures)  # what is known so far


if __name__ == "__main__":
    main()
