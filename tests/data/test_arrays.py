"""Stored arrays that are no scans: frames, the small ones of which stay in memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from unlabeled.data.arrays import SMALL, StoredArray, encode
from unlabeled.errors import DataError


def stored(folder: Path, array: np.ndarray) -> StoredArray:
    coded, low = encode(array)
    path = folder / "entry" / "arrays"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(8) + bytes(coded))
    return StoredArray(path, 8, len(coded), array.shape, array.dtype, low)


@pytest.mark.parametrize("length", [100, SMALL // 4, SMALL // 4 + 1, 40_000])
def test_parts_of_a_frame_are_those_of_the_array(tmp_path: Path, length: int) -> None:
    array = np.random.default_rng(0).normal(size=(1, length)).astype(np.float32)
    frame = stored(tmp_path, array)
    for _ in range(2):
        np.testing.assert_array_equal(frame.read((7,), (60,)), array[:, 7:67])
    np.testing.assert_array_equal(frame.whole(), array)


def test_a_small_frame_is_opened_once_and_nobody_can_change_what_is_kept(tmp_path: Path) -> None:
    array = np.arange(50, dtype=np.float32)[None]
    frame = stored(tmp_path, array)
    frame.whole()[:] = -1
    frame.path.unlink()
    np.testing.assert_array_equal(frame.whole(), array)


def test_a_large_frame_that_has_gone_is_named(tmp_path: Path) -> None:
    frame = stored(tmp_path, np.zeros((1, 40_000), np.float32))
    frame.path.unlink()
    with pytest.raises(DataError, match="has gone or is damaged"):
        frame.whole()
