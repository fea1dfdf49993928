"""Fixtures that every test may use: the real scans and the golden arrays, where they can be found."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Iterator
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


@pytest.fixture
def proof(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Report the figures of a small-scale proof: ``proof("c2l", data="chest-xray-longitudinal", top1=0.6, chance=0.01)``.

    They go to the test's output, and with ``$UNLABELED_PROOFS`` to that CSV file, one row a figure; the rows that a
    test wrote there earlier are replaced.
    """

    def keep(slug: str, *, data: str, **figures: float) -> None:
        test = request.node.nodeid.partition("::")[2]
        if not figures:
            pytest.fail(f"{slug} gave no figure: was its run cut short?")
        rows = [
            {"slug": slug, "data": data, "figure": name, "value": f"{value:.4g}", "test": test}
            for name, value in figures.items()
        ]
        print(
            *(f"{row['slug']} on {data}: {row['figure']} {row['value']}" for row in rows), sep="\n"
        )
        named = os.environ.get("UNLABELED_PROOFS")
        if named:
            _keep_rows(Path(named), rows)

    return keep


def _keep_rows(path: Path, rows: list[dict[str, str]]) -> None:
    held: list[dict[str, str]] = []
    if path.exists():
        with path.open(newline="") as file:
            held = list(csv.DictReader(file))
    fresh = {(row["slug"], row["test"]) for row in rows}
    kept = [row for row in held if (row["slug"], row["test"]) not in fresh]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(sorted([*kept, *rows], key=lambda row: (row["slug"], row["test"])))


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the tests out of the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNLABELED_CACHE", str(tmp_path_factory.mktemp("user-cache")))
        yield
