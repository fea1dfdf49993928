from __future__ import annotations

import json

import pytest

from unlabeled.data.sealed import load_sealed, save_sealed

MARK = b"a kind 2\n"
PARTS = [b"first", b"", bytes(range(256))]


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "cache" / "x.kept"
    save_sealed(path, MARK, {"complete": True}, PARTS)
    return path


def test_what_is_saved_is_loaded(saved):
    assert load_sealed(saved, MARK) == ({"complete": True}, PARTS)
    assert [path.name for path in saved.parent.iterdir()] == ["x.kept"]
    assert saved.stat().st_mode & 0o077 == 0


def test_every_cut_and_every_flipped_bit_is_noticed(saved):
    data = saved.read_bytes()
    for at in range(len(data)):
        saved.write_bytes(data[:at])
        assert load_sealed(saved, MARK) is None, at
        saved.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        loaded = load_sealed(saved, MARK)
        assert loaded is None or loaded == ({"complete": True}, PARTS), at  # a space made a tab
    saved.write_bytes(data + b"x")
    assert load_sealed(saved, MARK) is None


@pytest.mark.parametrize(
    "seal",
    [
        {},
        [],
        {"sizes": [], "check": 0},
        {"sizes": [-1, 3], "check": 0},
        {"sizes": [10**15], "check": 0},
        {"sizes": ["x"], "check": 0},
        {"sizes": [2], "check": None},
    ],
)
def test_a_strange_seal_is_no_fault(saved, seal):
    saved.write_bytes(MARK + json.dumps(seal).encode() + b"\n{}")
    assert load_sealed(saved, MARK) is None


def test_another_version_counts_for_nothing(saved):
    assert load_sealed(saved, b"a kind 3\n") is None
    assert load_sealed(saved.with_name("absent"), MARK) is None
    assert load_sealed(saved.parent, MARK) is None


def test_a_folder_that_cannot_be_made_is_no_fault(tmp_path):
    (tmp_path / "cache").touch()
    save_sealed(tmp_path / "cache" / "x", MARK, {}, [])
    assert load_sealed(tmp_path / "cache" / "x", MARK) is None
