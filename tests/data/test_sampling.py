"""Where patches are cut: inside, everywhere, and on labels when asked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from unlabeled.data.entry import write_entry
from unlabeled.data.intensity import IntensityRule
from unlabeled.data.preparation import Recipe, prepare_scan
from unlabeled.data.record import Record, entry_path
from unlabeled.data.sampling import (
    PlanePairs,
    centre_patch,
    draw_labelled_start,
    draw_overlapping,
    draw_patch,
    draw_start,
    draw_start_holding,
    overlap,
    pair_scans,
    patch_size,
    tiles,
)
from unlabeled.data.scan import Grid, Scan, ScanFile, Source
from unlabeled.rng import generator


def record(folder: Path, array: np.ndarray, mask: np.ndarray | None = None) -> Record:
    scan = Scan(array=array, spacing=None, affine=None, modality="CT", grid=Grid((), None))
    about, arrays = prepare_scan(scan, mask, Recipe())
    write_entry(entry_path(folder, "aakey"), about, arrays)
    source = Source(name="a", channels=(ScanFile((Path("a"),), "npy"),), subject="s")
    return Record("aakey", source, IntensityRule(), str(folder))


@given(
    pairs=st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40)), min_size=2, max_size=3),
    seed=st.integers(0, 2**31),
)
def test_a_patch_lies_inside_or_around_the_scan(pairs: list[tuple[int, int]], seed: int) -> None:
    space, size = zip(*pairs, strict=True)
    start = draw_start(space, size, generator(seed))
    for first, edge, extent in zip(start, size, space, strict=True):
        if edge <= extent:
            assert 0 <= first <= extent - edge
        else:
            before, after = -first, edge - extent + first
            assert 0 <= after - before <= 1


def test_every_start_is_reached_evenly() -> None:
    rng = generator(0)
    drawn = [draw_start((9, 5), (5, 4), rng) for _ in range(4000)]
    starts, counts = np.unique(drawn, axis=0, return_counts=True)
    assert len(starts) == 5 * 2
    assert abs(counts - 400).max() < 100  # 5 deviations


def test_the_same_generator_draws_the_same_patch(tmp_path: Path) -> None:
    scan = record(tmp_path, np.arange(20**3, dtype=np.int16).reshape(1, 20, 20, 20))
    first, second = (draw_patch(scan, (8, 8, 8), generator(3)) for _ in range(2))
    assert torch.equal(first, second)
    assert first.shape == (1, 8, 8, 8)


def test_two_edges_on_a_volume_take_an_axial_slice(tmp_path: Path) -> None:
    array = np.broadcast_to(np.arange(30, dtype=np.int16) * 10, (1, 20, 20, 30))
    scan = record(tmp_path, array)
    seen = set()
    rng = generator(0)
    for _ in range(200):
        patch = draw_patch(scan, (6, 7), rng)
        assert patch.shape == (1, 6, 7)
        assert patch.unique().numel() == 1  # one place along the last axis
        seen.add(round((patch[0, 0, 0].item() * 2000 - 1000) / 10))
    assert len(seen) > 25
    with pytest.raises(ValueError, match="axes"):
        patch_size(scan, (4,))


def test_labelled_patches_hold_a_label_and_rare_labels_are_not_lost(tmp_path: Path) -> None:
    mask = np.zeros((40, 40, 40), np.uint8)
    mask[5:25, 5:25, 5:25] = 1
    mask[38, 39, 1] = 2
    scan = record(tmp_path, np.zeros((1, 40, 40, 40), np.int16), mask)
    rng = generator(0)
    held = {1: 0, 2: 0}
    starts = set()
    for _ in range(100):
        start = draw_labelled_start(scan, (8, 8, 8), rng, 1.0)
        labels = scan.mask_patch(start, (8, 8, 8)).unique().tolist()
        assert all(0 <= first <= 32 for first in start)
        assert set(labels) & {1, 2}
        for label in held:
            held[label] += label in labels
        starts.add(start)
    assert min(held.values()) > 25
    assert len(starts) > 50
    bare = [draw_labelled_start(scan, (8, 8, 8), generator(n), 0.0) for n in range(200)]
    assert sum(bool(scan.mask_patch(start, (8, 8, 8)).any()) for start in bare) < 150


def test_without_labels_a_labelled_start_is_any_start(tmp_path: Path) -> None:
    empty = np.zeros((20, 20, 20), np.uint8)
    scan = record(tmp_path, np.zeros((1, 20, 20, 20), np.int16), empty)
    assert scan.labelled_voxels == {}
    assert all(0 <= first <= 12 for first in draw_labelled_start(scan, (8,) * 3, generator(0), 1.0))


def test_the_middle_patch_is_cut_or_padded_evenly(tmp_path: Path) -> None:
    array = np.arange(6 * 5 * 4, dtype=np.int16).reshape(1, 6, 5, 4)
    scan = record(tmp_path, array)
    whole = scan.patch((0, 0, 0), (6, 5, 4))
    middle = centre_patch(scan, (4, 8, 4))
    assert torch.equal(middle[:, :, 1:6], whole[:, 1:5])
    assert torch.equal(middle[:, :, 0], middle[:, :, 6])  # padding on both sides
    assert torch.equal(centre_patch(scan, (6, 5)), whole[..., 1])


@dataclass(frozen=True)
class Named:
    """As much of a record as pairing asks for."""

    subject: str
    number: int


@given(subjects=st.lists(st.sampled_from("abcd"), min_size=1, max_size=9), seed=st.integers(0, 99))
def test_partners_are_other_subjects_scans_and_every_one_is_reached(
    subjects: list[str], seed: int
) -> None:
    records: list[Any] = [Named(subject, number) for number, subject in enumerate(subjects)]
    pairings = pair_scans(records)
    if len(set(subjects)) == 1:
        assert pairings == ()
    else:
        assert [pairing.record for pairing in pairings] == records
    rng = generator(seed)
    for pairing in pairings:
        drawn = {pairing.draw(rng) for _ in range(200)}
        assert drawn == {each for each in records if each.subject != pairing.record.subject}


def test_any_scan_may_be_a_partner_when_asked() -> None:
    records: list[Any] = [Named("a", 0), Named("a", 1), Named("b", 2)]
    pairings = pair_scans(records, subjects=False)
    rng = generator(0)
    assert [pairing.record for pairing in pairings] == records
    assert {pairings[0].draw(rng) for _ in range(100)} == set(records)


@given(
    pairs=st.lists(st.tuples(st.integers(1, 40), st.integers(1, 12)), min_size=2, max_size=3),
    margin=st.integers(0, 9),
)
def test_tiles_cover_a_scan_once_and_know_where_they_lie(
    pairs: list[tuple[int, int]], margin: int
) -> None:
    space, edges = zip(*pairs, strict=True)
    scan = np.arange(int(np.prod(space))).reshape(space)
    covered = np.zeros(space, int)
    for tile in tiles(space, edges, (margin,) * len(space)):
        read = tuple(slice(a, a + n) for a, n in zip(tile.start, tile.size, strict=True))
        assert scan[read].shape == tile.size
        assert (scan[read][tile.inner] == scan[tile.place]).all()
        covered[tile.place] += 1
        for place, begin, size, extent in zip(
            tile.place, tile.start, tile.size, space, strict=True
        ):
            assert begin == max(0, place.start - margin)
            assert begin + size == min(extent, place.stop + margin)
    assert (covered == 1).all()


edges = st.tuples(st.integers(1, 30), st.integers(1, 30))


@given(st.lists(edges, min_size=2, max_size=3), st.integers(0, 2**31))
def test_a_patch_about_a_box_holds_it_and_stays_inside(shape, seed):
    space, size = zip(*shape, strict=True)
    rng = np.random.default_rng(seed)
    box = [tuple(sorted(rng.choice(edge + 1, 2, replace=False).tolist())) for edge in space]
    start = draw_start_holding(space, size, box, generator(seed))
    for at, extent, edge, (first, stop) in zip(start, space, size, box, strict=True):
        if extent < edge:
            assert at == -((edge - extent) // 2)
            continue
        assert 0 <= at <= extent - edge
        if stop - first <= edge:
            assert at <= first
            assert stop <= at + edge
        else:  # too long to be held: the patch lies within
            assert first <= at
            assert at + edge <= stop


def test_a_patch_about_a_box_may_lie_anywhere():
    rng = generator(0)
    seen = {draw_start_holding((20,), (6,), [(9, 11)], rng)[0] for _ in range(300)}
    assert seen == set(range(5, 10))


@given(
    planes=st.sets(st.integers(0, 40), max_size=14),
    spacing=st.sampled_from([0.1, 0.7, 1.0, 2.5]),
    least=st.sampled_from([0.0, 0.7, 2.1, 5.0]),
    width=st.sampled_from([None, 0.0, 0.7, 3.0]),
    seed=st.integers(0, 100),
)
def test_pairs_of_planes_are_all_those_within_the_limits(planes, spacing, least, width, seed):
    most = None if width is None else least + width
    rising = np.array(sorted(planes), np.int64)
    pairs = PlanePairs.within(rising, spacing, least, most)
    far = np.inf if most is None else most
    listed = {
        (int(a), int(b))
        for a in rising
        for b in rising
        if b > a and least - 1e-5 <= (b - a) * spacing <= far + 1e-5
    }
    assert len(pairs) == len(listed)
    if listed:
        rng = generator(seed)
        assert {pairs.draw(rng) for _ in range(30)} <= listed


def test_every_pair_of_planes_comes_as_often():
    pairs = PlanePairs.within(np.array([0, 2, 3, 9]), 1.0, 2.0)
    assert len(pairs) == 5
    drawn = [pairs.draw(generator(n)) for n in range(2000)]
    counts = {pair: drawn.count(pair) for pair in set(drawn)}
    assert set(counts) == {(0, 2), (0, 3), (0, 9), (2, 9), (3, 9)}
    assert min(counts.values()) > 330


BOXES = ((8, 8), (12, 12), (4, 4), (14, 10))


@given(
    space=st.tuples(st.integers(3, 40), st.integers(3, 40)),
    least=st.floats(0.0, 0.9),
    seed=st.integers(0, 2**31),
)
def test_overlapping_boxes_share_enough_and_stay_inside(space, least, seed):
    drawn = draw_overlapping(space, BOXES, least, generator(seed))
    fitting = {tuple(min(edge, n) for edge, n in zip(size, space, strict=True)) for size in BOXES}
    for start, size in drawn:
        assert size in fitting
        assert all(0 <= at <= n - edge for at, edge, n in zip(start, size, space, strict=True))
    (a, x), (b, y) = drawn
    cells = [
        {(i, j) for i in range(s[0], s[0] + e[0]) for j in range(s[1], s[1] + e[1])}
        for s, e in drawn
    ]
    share = len(cells[0] & cells[1]) / len(cells[0] | cells[1])
    assert share > least
    assert overlap(*map(np.array, (a, x, b, y))) == pytest.approx(share)


def test_overlapping_boxes_lie_anywhere_and_of_all_sizes_that_can_meet():
    rng = generator(0)
    drawn = [draw_overlapping((30, 30), BOXES, 0.25, rng) for _ in range(1500)]
    starts = {start for (start, size), _ in drawn if size == (12, 12)}
    assert {at for at, _ in starts} == {at for _, at in starts} == set(range(19))
    sizes = {(x, y) for (_, x), (_, y) in drawn}
    small = {((4, 4), other) for other in BOXES[::3]} | {((4, 4), (12, 12))}
    assert ((4, 4), (4, 4)) in sizes
    assert not sizes & small
    assert {((8, 8), (12, 12)), ((12, 12), (8, 8)), ((14, 10), (8, 8))} <= sizes
    shared = [overlap(*map(np.array, (a, x, b, y))) for (a, x), (b, y) in drawn]
    assert np.mean(np.array(shared) < 0.35) > 0.2, "boxes that share little are drawn as well"


def test_the_same_size_alone_can_share_nearly_all():
    (a, x), (b, y) = draw_overlapping((50, 50), BOXES, 0.9, generator(1))
    assert x == y or overlap(*map(np.array, (a, x, b, y))) > 0.9
