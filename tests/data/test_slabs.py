"""Slabs: planes where they belong, interpolated as published, zero beyond the volume."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from unlabeled.data.slabs import PLANES, Frame, Slab, cut_slabs, interpolate, read_slab


class Held:
    """A record in memory; reading beyond it is a fault."""

    channels, dims = 1, 3

    def __init__(self, array: np.ndarray, foreground=None) -> None:
        self.array, self.space = array, array.shape
        self.foreground = foreground
        self.source = SimpleNamespace(name="held")

    def patch(self, start, size) -> torch.Tensor:
        assert all(a >= 0 and a + n <= e for a, n, e in zip(start, size, self.space, strict=True))
        cut = self.array[tuple(slice(a, a + n) for a, n in zip(start, size, strict=True))]
        return torch.from_numpy(np.ascontiguousarray(cut))[None]


def noise(*space: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=space).astype(np.float32)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_planes_lie_across_their_axis_and_samples_reach_as_far_as_asked(axis):
    slab = Slab((5, 7), reach=0.4, gap=0.05)
    offsets = slab.offsets(axis)
    assert offsets[axis].tolist() == [-0.05, 0.0, 0.05]
    rows, columns = (each for at, each in enumerate(offsets) if at != axis)
    assert (len(rows), len(columns)) == (5, 7)
    assert (rows[0], rows[-1], columns[0], columns[-1]) == (-0.4, 0.4, -0.4, 0.4)
    found, beyond = read_slab(Held(noise(20, 22, 24)), Frame((0.0,) * 3, (20, 22, 24)).place((0, 0, 0), offsets), axis)  # fmt: skip
    assert found.shape == (PLANES, 5, 7)
    assert beyond == 0


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_channels_are_parallel_planes(axis):
    """In a volume that holds the coordinate across the planes, each plane is constant, and they differ."""
    space = (41, 41, 41)
    grid = np.indices(space, dtype=np.float32)[axis]
    positions = Frame((0.0,) * 3, space).place((0.1, -0.1, 0.2), Slab((6, 6)).offsets(axis))
    found, _ = read_slab(Held(grid), positions, axis)
    middle = ((0.1, -0.1, 0.2)[axis] + 1) * 20
    for plane, away in zip(found, (-1.0, 0.0, 1.0), strict=True):
        assert torch.allclose(plane, torch.tensor(middle + away).float(), atol=1e-4)


@given(
    seed=st.integers(0, 2**31), axis=st.integers(0, 2), ends=st.sampled_from(["centres", "faces"])
)
def test_reading_is_trilinear_with_zeros_beyond(seed, axis, ends):
    """The same as torch's own sampling of the whole volume, wherever the slab lies."""
    rng = np.random.default_rng(seed)
    space = tuple(int(edge) for edge in rng.integers(3, 12, 3))
    volume = noise(*space)
    centre = rng.uniform(-1.6, 1.6, 3)
    offsets = Slab((6, 5)).offsets(axis)
    positions = Frame((0.0,) * 3, space).place(centre, offsets, ends)
    found, beyond = read_slab(Held(volume), positions, axis)
    coordinates = np.meshgrid(
        *(middle + away for middle, away in zip(centre, offsets, strict=True)), indexing="ij"
    )
    grid = torch.from_numpy(np.stack(coordinates[::-1], -1)).float()[None]
    whole = F.grid_sample(
        torch.from_numpy(volume)[None, None], grid, padding_mode="zeros", align_corners=ends == "centres"
    )[0, 0]  # fmt: skip
    assert torch.allclose(found, whole.movedim(axis, 0), atol=2e-4)
    inside = [(at >= 0) & (at <= edge - 1) for at, edge in zip(positions, space, strict=True)]
    share = np.prod([each.mean() for each in inside])
    assert beyond == pytest.approx(1 - share)


def test_a_slab_beyond_the_volume_is_zero_without_reading():
    record = Held(np.ones((8, 8, 8), np.float32))
    positions = Frame((0.0,) * 3, (8, 8, 8)).place((3.0, 0, 0), Slab((4, 4)).offsets(1))
    found, beyond = read_slab(record, positions, 1)
    assert found.shape == (PLANES, 4, 4)
    assert not found.any()
    assert beyond == 1


def test_many_slabs_are_cut_as_single_ones():
    volume = noise(12, 14, 10)
    record, frame = Held(volume), Frame((0.0,) * 3, volume.shape)
    centres = np.random.default_rng(1).uniform(-0.5, 0.5, (5, 3))
    for axis in range(3):
        offsets = Slab((4, 6)).offsets(axis)
        away = tuple(o * (edge - 1) / 2 for o, edge in zip(offsets, volume.shape, strict=True))
        voxels = (centres + 1) * (np.array(volume.shape) - 1) / 2
        many = cut_slabs(volume, voxels, away, axis)
        for centre, found in zip(centres, many, strict=True):
            single, _ = read_slab(record, frame.place(centre, offsets), axis)
            assert torch.allclose(found, single, atol=1e-5)


def test_a_frame_is_the_scan_or_a_box_about_the_middle_of_its_foreground():
    record = Held(noise(20, 30, 40), foreground=((4, 9), (0, 30), (10, 21)))
    assert Frame.of(record) == ((0.0, 0.0, 0.0), (20, 30, 40))
    frame = Frame.of(record, (5, 10, 60))
    assert frame == ((4.0, 10.0, -14.5), (5, 10, 60))
    nil = (np.zeros(1),) * 3
    middle = frame.place((0.0, 0.0, 0.0), nil)
    assert [float(at[0]) for at in middle] == [6.0, 14.5, 15.0]
    last = frame.place((1.0, 1.0, 1.0), nil)
    assert [float(at[0]) for at in last] == [8.0, 19.0, 44.5]


@pytest.mark.parametrize(("axis", "name"), [(0, "axes12"), (1, "axes02"), (2, "axes01")])
@pytest.mark.parametrize(("ends", "mode"), [("centres", "acT"), ("faces", "acF")])
def test_published_slabs(golden, axis, name, ends, mode):
    with np.load(golden / "volume-context" / "patches.npz") as held:
        volume, first = held["volume"][0, 0], held["center1"][::-1].astype(float)
        second = first + held[f"offset_{name}"][::-1]
        for number, centre in ((1, first), (2, second)):
            positions = Frame((0.0,) * 3, volume.shape).place(
                centre, Slab((42, 42)).offsets(axis), ends
            )
            found, _ = read_slab(Held(volume), positions, axis)
            wanted = torch.from_numpy(held[f"patch{number}_{name}_{mode}"][0])
            assert torch.allclose(found, wanted, atol=1e-5)


def test_interpolation_puts_one_axis_first():
    volume = noise(4, 5, 6)
    positions = tuple(np.arange(edge, dtype=float)[None] for edge in volume.shape)
    for axis in range(3):
        assert np.array_equal(interpolate(volume, positions, axis)[0], np.moveaxis(volume, axis, 0))
