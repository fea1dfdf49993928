"""Local shuffling against the plain algorithm and against the published statistics."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unlabeled.rng import generator
from unlabeled.transforms import _kernels
from unlabeled.transforms.shuffling import LocalShuffle, ShufflePlan

spaces = st.one_of(
    st.tuples(st.integers(1, 60), st.integers(1, 60)),
    st.tuples(st.integers(1, 30), st.integers(1, 30), st.integers(1, 30)),
)


def last_windows(plan: ShufflePlan, space: tuple[int, ...]) -> np.ndarray:
    """Say for every voxel which window was written to it last; -1 where none was."""
    last = np.full((1,) * (3 - len(space)) + space, -1)
    for w, (x, y, z, a, b, c) in enumerate(plan.windows.tolist()):
        last[x : x + a, y : y + b, z : z + c] = w
    return last


def full_orders(plan: ShufflePlan, space: tuple[int, ...]) -> list[np.ndarray]:
    """Complete the permutation of every window whose surviving entries the plan holds.

    Fails where the plan is no result of any permutations: a source outside its window, or used twice by one.
    """
    last = last_windows(plan, space)
    index = np.arange(last.size).reshape(last.shape)
    sources = plan.sources.reshape(last.shape)
    assert (sources == index)[last < 0].all()
    orders = []
    for w, (x, y, z, a, b, c) in enumerate(plan.windows.tolist()):
        region = (slice(x, x + a), slice(y, y + b), slice(z, z + c))
        within = {voxel: i for i, voxel in enumerate(index[region].ravel().tolist())}
        survives = (last[region] == w).ravel()
        order = np.full(a * b * c, -1)
        order[survives] = [within[source] for source in sources[region].ravel()[survives].tolist()]
        used = order[survives]
        assert len(set(used.tolist())) == len(used)
        order[~survives] = np.setdiff1d(np.arange(a * b * c), used)
        orders.append(order)
    return orders


@settings(max_examples=30, deadline=None)
@given(
    space=spaces, windows=st.integers(1, 300), share=st.integers(1, 12), seed=st.integers(0, 999)
)
def test_equals_the_plain_version(plain, space, windows, share, seed):
    """There are permutations of the drawn windows with which the plain algorithm gives the same, bit for bit."""
    rng = generator(seed)
    plan = LocalShuffle(windows=windows, share=share).draw(space, rng)
    image = torch.rand(2, *space, generator=rng)
    stretched = image.numpy().reshape(2, *(1,) * (3 - len(space)), *space)
    expected = plain.plain_shuffle(stretched, plan.windows.tolist(), full_orders(plan, space))
    assert np.array_equal(plan(image).numpy(), expected.reshape(image.shape))


def test_equals_the_plain_version_at_the_published_size(plain):
    plan = LocalShuffle().draw((64, 64, 32), generator(5))
    image = torch.rand(1, 64, 64, 32, generator=generator(6))
    orders = full_orders(plan, (64, 64, 32))
    expected = plain.plain_shuffle(image.numpy(), plan.windows.tolist(), orders)
    assert np.array_equal(plan(image).numpy(), expected)


def test_completing_notices_a_wrong_plan():
    plan = LocalShuffle(windows=200).draw((40, 40), generator(0))
    moved = plan.sources.copy()
    covered = np.flatnonzero(last_windows(plan, (40, 40)).ravel() >= 0)
    moved[covered[0]] = (moved[covered[0]] + 800) % 1600
    with pytest.raises(KeyError):
        full_orders(ShufflePlan(plan.windows, moved), (40, 40))


def test_large_windows_give_the_same_without_a_table_of_offsets():
    """Both ways to list a window's voxels give the same sources."""
    space, largest = np.array([20, 30, 10]), np.array([7, 6, 5])
    windows = np.empty((300, 6), np.int32)
    _kernels.draw_windows(np.uint64(3), space, largest, windows)
    tabulated = np.empty(6000, np.int32)
    _kernels.draw_sources(np.uint64(4), space, windows, largest, tabulated)
    listed = np.empty(6000, np.int32)
    huge = (
        largest + 60
    )  # an upper bound is all that is asked of it, and its tables would be too long
    _kernels.draw_sources(np.uint64(4), space, windows, huge, listed)
    assert np.array_equal(tabulated, listed)


def test_windows_are_uniform():
    plan = LocalShuffle(windows=60_000).draw((64, 32), generator(1))
    _, rows, columns, _, height, width = plan.windows.T
    assert np.bincount(height, minlength=7)[1:].min() > 9_600
    assert set(height.tolist()) == {1, 2, 3, 4, 5, 6}
    assert set(width.tolist()) == {1, 2, 3}
    starts = np.bincount(rows[height == 6], minlength=59)
    assert len(starts) == 59
    assert starts.min() > 0.6 * starts.mean()
    assert (columns + width).max() == 32
    assert abs(np.corrcoef(rows, columns)[0, 1]) < 0.02


def test_permutations_are_uniform():
    """One window over two by two by two voxels: every voxel receives each of the eight equally often."""
    counts = np.zeros((8, 8))
    space, largest = np.array([2, 2, 2]), np.array([2, 2, 2])
    whole = np.array([[0, 0, 0, 2, 2, 2]], np.int32)
    sources = np.empty(8, np.int32)
    pairs = np.zeros((8, 8))
    for seed in range(8_000):
        _kernels.draw_sources(np.uint64(seed * 7919), space, whole, largest, sources)
        counts[np.arange(8), sources] += 1
        pairs[sources[2], sources[5]] += 1
    chi = ((counts - 1000) ** 2 / 1000).sum()
    assert chi < 49 + 4 * np.sqrt(2 * 49)
    joint = pairs[~np.eye(8, dtype=bool)]
    assert ((joint - 8000 / 56) ** 2 / (8000 / 56)).sum() < 55 + 4 * np.sqrt(2 * 55)
    assert pairs.diagonal().sum() == 0


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31), edge=st.integers(8, 40))
def test_no_value_travels_farther_than_a_window(seed, edge):
    rng = torch.Generator().manual_seed(seed)
    where = torch.stack(torch.meshgrid(*[torch.arange(edge)] * 3, indexing="ij"))
    moved = (LocalShuffle(windows=500)(where, rng) - where).abs()
    assert moved.max() < max(1, edge // 10)


def test_published_share_of_moved_and_surviving_values(golden):
    arrays = np.load(golden / "models-genesis" / "statistics.npz")
    image = torch.arange(64 * 64 * 32).reshape(1, 64, 64, 32)
    moved, kept = [], []
    for seed in range(8):
        shuffled = LocalShuffle()(image, generator(seed))
        moved.append(float((shuffled != image).float().mean()))
        kept.append(len(np.unique(shuffled.numpy())) / image.numel())
    for ours, name in ((moved, "shuffle_moved_fraction"), (kept, "shuffle_unique_fraction")):
        theirs = arrays[name]
        error = np.hypot(np.std(ours) / len(ours) ** 0.5, theirs.std() / len(theirs) ** 0.5)
        assert abs(np.mean(ours) - theirs.mean()) < 4 * error, name


def test_published_example_has_the_same_moves(golden):
    """At 32 x 32 x 16 windows reach 3, 3, 1 voxels: as large a share of values changes as in the example."""
    arrays = np.load(golden / "models-genesis" / "painting_shuffle_examples.npz")
    image = torch.from_numpy(arrays["small_x"])
    theirs = float((arrays["small_local_shuffle"] != arrays["small_x"]).mean())
    ours = [float((LocalShuffle()(image, generator(i)) != image).float().mean()) for i in range(8)]
    assert abs(np.mean(ours) - theirs) < 0.01


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int16, torch.bool])
def test_dtype_and_input_stay(dtype):
    image = (torch.rand(2, 16, 24) * 3).to(dtype)
    before = image.clone()
    shuffled = LocalShuffle(windows=50)(image, generator(0))
    assert shuffled.dtype == dtype
    assert shuffled.shape == image.shape
    assert torch.equal(image, before)
    assert set(shuffled.unique().tolist()) <= set(image.unique().tolist())


def test_views_that_are_not_contiguous():
    image = torch.rand(1, 20, 24, 12).transpose(1, 3)
    shuffle = LocalShuffle(windows=100)
    assert torch.equal(shuffle(image, generator(0)), shuffle(image.contiguous(), generator(0)))


def test_channels_are_shuffled_alike():
    image = torch.rand(1, 30, 30).repeat(3, 1, 1)
    shuffled = LocalShuffle(windows=100)(image, generator(0))
    assert torch.equal(shuffled[0], shuffled[2])


def test_probability_zero_is_the_identity():
    image = torch.rand(1, 20, 20)
    same = LocalShuffle(p=0)(image, generator(0))
    assert torch.equal(same, image)
    assert same.data_ptr() != image.data_ptr()


def test_edges_shorter_than_ten_voxels_are_left_whole():
    image = torch.rand(1, 9, 8, 7)
    assert torch.equal(LocalShuffle()(image, generator(0)), image)


def test_other_axes_of_space_are_refused():
    with pytest.raises(ValueError, match="not on 4"):
        LocalShuffle()(torch.rand(1, 4, 4, 4, 4), generator(0))
