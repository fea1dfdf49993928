"""How tests type commands, in this process, and the smallest sensible options."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from unlabeled.cli.app import run

TINY = [
    "--encoder",
    "resenc-tiny",
    "--patch-size",
    "16",
    "16",
    "16",
    "--batch-size",
    "2",
    "--accelerator",
    "cpu",
]
FLAT = [
    "--encoder",
    "resenc-tiny",
    "--patch-size",
    "16",
    "16",
    "--batch-size",
    "2",
    "--accelerator",
    "cpu",
]
# turned, mirrored, anisotropic and off the origin: nothing that a reorientation to RAS leaves as it is
TILTED = np.array(
    [[0.0, 1.5, 0.0, -20.0], [-1.0, 0.0, 0.1, 30.0], [0.0, 0.2, -2.0, 5.0], [0.0, 0.0, 0.0, 1.0]]
)


@dataclass(frozen=True)
class Said:
    """What one command came to."""

    code: int
    out: str
    err: str


def type_in(words: Sequence[str | Path]) -> Said:
    """Run the command line in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run([str(word) for word in words])
    return Said(code, out.getvalue(), err.getvalue())
