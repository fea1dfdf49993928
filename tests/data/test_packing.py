"""Packed integers come back exactly, for any shape, type and crop."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unlabeled.data import arrays
from unlabeled.data.arrays import StoredArray, encode
from unlabeled.data.intensity import IntensityRule, Rescaling, Statistics
from unlabeled.data.kernels import scaling
from unlabeled.errors import DataError


def stored(array: np.ndarray, folder: Path, lead: int = 8) -> StoredArray:
    data, low = encode(array)
    path = folder / "array"
    path.write_bytes(bytes(lead) + data)
    return StoredArray(path, lead, len(data), array.shape, array.dtype, low)


@settings(max_examples=40, deadline=None)
@given(
    space=st.lists(st.integers(1, 70), min_size=2, max_size=3),
    channels=st.integers(1, 3),
    kind=st.sampled_from(["int16", "uint8", "uint16", "int32", "float32", "int8"]),
    spread=st.sampled_from([0, 1, 30, 255, 70_000]),
    seed=st.integers(0, 2**31),
)
def test_any_crop_comes_back_exactly(
    space: list[int],
    channels: int,
    kind: str,
    spread: int,
    seed: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    rng = np.random.default_rng(seed)
    if kind == "float32":
        array = rng.normal(0, 1 + spread, (channels, *space)).astype(kind)
    else:
        limits = np.iinfo(kind)
        low = int(rng.integers(limits.min, limits.max - min(spread, limits.max - limits.min) + 1))
        high = min(low + spread, limits.max)
        array = rng.integers(low, high + 1, (channels, *space)).astype(kind)
        array[:, : space[0] // 2] = low  # half is empty, as in scans
    kept = stored(array, tmp_path_factory.mktemp("packed"))
    start = [int(rng.integers(0, edge)) for edge in space]
    size = [
        int(rng.integers(1, edge - first + 1)) for first, edge in zip(start, space, strict=True)
    ]
    cut = tuple(slice(first, first + edge) for first, edge in zip(start, size, strict=True))
    patch = kept.read(start, size)
    assert patch.dtype == array.dtype
    assert np.array_equal(patch, array[(slice(None), *cut)])
    assert np.array_equal(kept.whole(), array)


@pytest.mark.parametrize("kind", ["window", "zscore"])
@pytest.mark.parametrize(("slope", "intercept"), [(1.0, 0.0), (0.5, -3.0)])
@pytest.mark.parametrize("dtype", ["int16", "float32"])
def test_rescaling_in_one_pass_equals_plain_numpy(
    kind: str, slope: float, intercept: float, dtype: str, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    array = rng.integers(-1500, 2500, (1, 40, 50, 60)).astype(dtype)
    quantiles = np.quantile(array * slope + intercept, np.linspace(0, 1, 1001)).astype(np.float32)
    rule = IntensityRule(kind=kind)  # type: ignore[arg-type]
    how = Rescaling.under(rule, Statistics(1, "MR", 0.0, 1.0, quantiles))
    numbers = [scaling(how, slope, intercept)]
    patch = stored(array, tmp_path).read_scaled((3, 5, 7), (30, 31, 32), numbers)
    one = np.float32
    plain = array[:, 3:33, 5:36, 7:39].astype(one) * one(slope) + one(intercept)
    plain = (np.clip(plain, one(how.low), one(how.high)) - one(how.centre)) * one(1 / how.width)
    plain = np.minimum(plain, one((how.high - how.centre) / how.width))
    assert np.array_equal(patch, plain)
    if kind == "window":
        assert patch.min() == 0
        assert 1 - 1e-6 < patch.max() <= 1


def test_noise_is_packed_near_its_range_and_emptiness_to_nothing(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 64, (1, 64, 64, 64)).astype(np.int16)  # 6 bits
    assert len(encode(noise)[0]) < 6.2 / 16 * noise.nbytes
    ragged = noise[:, :33, :17, :50]  # a cell at the end holds no more than it must
    assert len(encode(ragged)[0]) < 7.5 / 16 * ragged.nbytes
    assert len(encode(np.full((1, 128, 128, 128), 7, np.int16))[0]) < 0.01 * 2**22


def test_a_patch_outside_is_a_programming_error(tmp_path: Path) -> None:
    kept = stored(np.zeros((1, 20, 20, 20), np.int16), tmp_path)
    for start, size in [((-1, 0, 0), (4, 4, 4)), ((0, 0, 17), (4, 4, 4)), ((0, 0), (4, 4))]:
        with pytest.raises(ValueError, match="patch"):
            kept.read(start, size)


def test_damage_is_noticed_before_it_is_read(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    kept = stored(rng.integers(0, 99, (1, 40, 40, 40)).astype(np.int16), tmp_path)
    good = kept.path.read_bytes()
    for seed in range(20):
        broken = bytearray(good)
        first = np.random.default_rng(seed).integers(8, len(good) - 400)
        broken[first : first + 400] = b"\xff" * 400
        kept.path.write_bytes(broken)
        arrays._small_packed.cache_clear()  # files of a store never change
        with suppress(DataError):  # wrong numbers are possible, a crash is not
            kept.whole()
    kept.path.write_bytes(good[:100])
    arrays._small_packed.cache_clear()
    with pytest.raises(DataError, match="damaged"):
        kept.whole()
    kept.path.unlink()
    arrays._small_packed.cache_clear()
    with pytest.raises(DataError, match="gone"):
        kept.whole()
