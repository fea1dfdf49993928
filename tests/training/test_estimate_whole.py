"""What was estimated, run whole: time, memory and disk within a quarter, for three unlike methods."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch):
    """The benchmark that keeps the same figures."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.delitem(sys.modules, "_common", raising=False)
    spec = importlib.util.spec_from_file_location("estimating", BENCHMARKS / "estimate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("slug", ["models-genesis", "c2l", "global-local-contrast"])
def test_an_estimate_is_true_within_a_quarter(slug: str, benchmark, tmp_path: Path) -> None:
    found = benchmark.compare(slug, tmp_path, 20.0)
    ratios = found["estimate_over_run"]
    assert ratios["memory"] == pytest.approx(1, abs=0.25)
    assert ratios["disk"] == pytest.approx(1, abs=0.25)
    # other programs that come or go in between are no fault of the estimate
    times = (ratios["time"], ratios["time with equal processors"])
    assert min(abs(ratio - 1) for ratio in times) <= 0.25, found
