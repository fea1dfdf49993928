"""The plain NumPy versions that the compiled transforms must equal, and images to try them on."""

from __future__ import annotations

import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest

BENCHMARK = Path(__file__).resolve().parents[2] / "benchmarks" / "models_genesis_transforms.py"


@pytest.fixture(scope="session")
def plain() -> SimpleNamespace:
    """Functions of the benchmark, by name."""
    return SimpleNamespace(**runpy.run_path(str(BENCHMARK)))
