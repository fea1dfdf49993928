"""Fixtures that every test may use: the real scans and the golden arrays, where they can be found."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# machines differ in speed, so no example has a deadline; the slow suite may raise the number of examples
settings.register_profile("fast", deadline=None, max_examples=30, derandomize=True)
settings.register_profile("thorough", deadline=None, max_examples=300)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fast"))

ROOT = Path(__file__).resolve().parent.parent


def _beside(variable: str, name: str) -> Path:
    named = os.environ.get(variable)
    folder = Path(named) if named else ROOT.parent / "shared" / name
    if not folder.is_dir():
        pytest.skip(f"no {name} beside the project, and ${variable} names none")
    return folder


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real scans; tests that need it are skipped, and say so, where it is absent."""
    return _beside("UNLABELED_DATA", "data")


@pytest.fixture(scope="session")
def golden() -> Path:
    """Folder of arrays computed with the published code; likewise."""
    return _beside("UNLABELED_GOLDEN", "golden")


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the tests out of the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNLABELED_CACHE", str(tmp_path_factory.mktemp("user-cache")))
        yield
