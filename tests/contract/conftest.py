"""Phantom patients for the contract tests."""

from __future__ import annotations

import pytest

from unlabeled.demo.phantoms import write_patients


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory):
    """Folders of eight small patients, by dimension."""
    folders = {}
    for dims, shape in ((2, (40, 40)), (3, (20, 20, 20))):
        folders[dims] = tmp_path_factory.mktemp(f"phantoms{dims}d")
        write_patients(folders[dims], patients=8, shape=shape)
    return folders


@pytest.fixture(scope="session")
def store(tmp_path_factory):
    """One cache for all contract tests."""
    return tmp_path_factory.mktemp("cache")
