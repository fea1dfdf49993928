"""The corpus of broken input as a fixture, and one test case for each of its kinds."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest


def _load(name: str) -> ModuleType:
    """Load a module that lies beside this file: the test folders are no packages."""
    known = f"unlabeled_tests_data_{name}"
    if known not in sys.modules:
        spec = importlib.util.spec_from_file_location(known, Path(__file__).with_name(f"{name}.py"))
        if spec is None or spec.loader is None:
            raise ImportError(name)
        module = importlib.util.module_from_spec(spec)
        sys.modules[known] = module
        spec.loader.exec_module(module)
    return sys.modules[known]


def _corpus() -> ModuleType:
    """Load the makers of all parts."""
    broken = _load("broken")
    for part in ("broken_pictures", "broken_series"):
        broken.CASES.update(_load(part).cases(broken))
    return broken


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test that asks for `broken_name` once for every kind of broken input."""
    if "broken_name" in metafunc.fixturenames:
        metafunc.parametrize("broken_name", sorted(_corpus().CASES))


@pytest.fixture(scope="session")
def broken() -> ModuleType:
    """Makers of sound, unusual and damaged files: `broken.CASES[name].make(folder)`, `broken.nifti(path)`, ..."""
    return _corpus()
