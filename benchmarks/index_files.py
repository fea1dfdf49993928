"""Time the listing and the index of very many files: cold, and when nothing has changed.

Makes empty files in a temporary folder, subject/visit/file as an archive has them, and prints medians.  An index makes
its sources when they are asked for; `index_unchanged_all_sources` asks for every one.


    python benchmarks/index_files.py --files 1000000 --json benchmarks/results/index_files.json
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from unlabeled.data.index import index_scans
from unlabeled.data.walk import list_files


def make_files(root: Path, files: int, visits: int = 3, scans: int = 12) -> int:
    """Make empty NIfTI names: subject/visit/scan; gives the number of folders."""
    made = folders = 0
    subject = 0
    while made < files:
        for visit in range(visits):
            folder = root / f"patient{subject:06d}" / f"visit{visit}"
            folder.mkdir(parents=True)
            folders += 1
            for scan in range(min(scans, files - made)):
                os.close(os.open(folder / f"scan{scan:02d}.nii.gz", os.O_CREAT | os.O_WRONLY))
                made += 1
            if made == files:
                break
        folders += 1
        subject += 1
    return folders


def all_sources(root: Path, cache: Path) -> int:
    """Index, and make every source, one after the other."""
    return sum(1 for _ in index_scans(root, cache=cache).sources)


def timed(call: Callable[[], object]) -> tuple[float, float]:
    """Time one call: on the wall clock, and of the processor for this process, its system calls included [s]."""
    wall, own = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - wall, time.process_time() - own


def machine() -> dict[str, Any]:
    """Say what the figures were taken on."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        model = lines[0].partition(":")[2].strip() if lines else model
    return {"cpu": model, "cores": os.cpu_count(), "python": platform.python_version()}


def file_system(folder: Path) -> str:
    """Name the type of the file system that a folder lies on, where the system tells."""
    mounts = Path("/proc/mounts")
    if not mounts.exists():
        return "unknown"
    rows = [line.split() for line in mounts.read_text().splitlines()]
    above = {str(folder), *map(str, folder.parents)}
    return max((row for row in rows if row[1] in above), key=lambda row: len(row[1]))[2]


def _medians(times: dict[str, list[tuple[float, float]]], which: int) -> dict[str, float]:
    return {
        name: round(statistics.median(taken[which] for taken in both), 3)
        for name, both in times.items()
    }


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        root, cache = Path(temporary) / "scans", Path(temporary) / "cache"
        folders = make_files(root, options.files)
        kind = file_system(root)
        time.sleep(2.5)  # let the folders settle, as in an archive that nobody is writing to
        times: dict[str, list[tuple[float, float]]] = {
            name: []
            for name in (
                *("list", "list_unchanged", "index", "index_unchanged"),
                "index_unchanged_all_sources",
            )
        }
        for repeat in range(options.repeats):
            listings, indices = cache / f"listing{repeat}", cache / f"index{repeat}"
            for name in ("list", "list_unchanged"):
                times[name].append(timed(partial(list_files, root, cache=listings)))
            for name in ("index", "index_unchanged"):
                times[name].append(timed(partial(index_scans, root, cache=indices)))
            times["index_unchanged_all_sources"].append(timed(partial(all_sources, root, indices)))
    result = {
        "files": options.files,
        "folders": folders,
        "file_system": kind,
        "repeats": options.repeats,
        "median_seconds": _medians(times, 0),
        "median_cpu_seconds": _medians(times, 1),
        "load_average": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None,
        "machine": machine(),
    }
    text = json.dumps(result, indent=2)
    sys.stdout.write(text + "\n")
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
