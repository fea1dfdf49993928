"""Phantom patients for the contract tests."""

from __future__ import annotations

import pytest
from cases import OWN_SCANS, write_phantoms


@pytest.fixture(scope="session")
def scans_of(tmp_path_factory):
    """What a method learns from in a contract test, by slug and dimension; made once."""
    made = {}

    def scans(slug, dims):
        write = OWN_SCANS.get(slug, write_phantoms)
        if (write, dims) not in made:
            made[write, dims] = write(tmp_path_factory.mktemp(f"scans{dims}d"), dims)
        return made[write, dims]

    return scans


@pytest.fixture(scope="session")
def store(tmp_path_factory):
    """One cache for all contract tests."""
    return tmp_path_factory.mktemp("cache")
