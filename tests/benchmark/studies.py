"""A small study, and the words that compare methods on it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

SPLITS = ("train", "train", "train", "train", "val", "test", "test")
OPTIONS = {
    "--methods": "models-genesis",
    "--label-fractions": "2,1",
    "--seeds": "1",
    "--encoder": "resenc-tiny",
    "--patch-size": "16 16",
    "--batch-size": "2",
    "--pretrain-steps": "2",
    "--steps": "2",
    "--epochs": "1",
    "--accelerator": "cpu",
}


@dataclass(frozen=True)
class Study:
    """Where its files are."""

    root: Path
    scans: Path
    labelled: Path
    cache: Path

    def words(self, out: Path, *flags: str, **other: str) -> list[str | Path]:
        """Write the command; `other` names options by their names in Python and replaces or adds values."""
        changed = {"--" + name.replace("_", "-"): value for name, value in other.items()}
        options = {**OPTIONS, **changed}
        typed = [word for name, value in options.items() for word in (name, *value.split())]
        places = ("compare", self.scans, self.labelled, "--out", out, "--cache", self.cache)
        return [*places, *typed, *flags]


def process_at(lock: Path) -> int | None:
    """Ask the kernel which process holds a file."""
    number = str(lock.stat().st_ino)
    for line in Path("/proc/locks").read_text().splitlines():
        words = line.split()
        if "->" not in words and words[5].rpartition(":")[2] == number:
            return int(words[4])
    return None
