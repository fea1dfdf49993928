"""Few masks of many: whole subjects, nested shares, and values as classes."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from unlabeled.data.few_masks import FewMasks
from unlabeled.errors import DataError


def scan(subject: int, *, masked: bool = True, values: tuple[int, ...] = (1,)) -> SimpleNamespace:
    return SimpleNamespace(
        mask=object() if masked else None,
        source=SimpleNamespace(subject=f"s{subject}"),
        labelled_voxels=dict.fromkeys(values),
    )


SCANS = [scan(number // 2) for number in range(20)] + [scan(n, masked=False) for n in range(30, 34)]


def test_scans_are_divided_by_subject_and_none_is_lost():
    for fraction in (0.05, 0.3, 0.5, 1.0):
        masks = FewMasks(fraction, seed=3)
        read, others = masks.labelled(SCANS), masks.unlabelled(SCANS)
        subjects = {each.source.subject for each in read}
        assert len(subjects) == max(1, round(10 * fraction))
        assert not subjects & {each.source.subject for each in others}
        assert len(read) + len(others) == len(SCANS)
        assert all(each.mask is not None for each in read)


def test_a_larger_share_holds_a_smaller_one_and_another_seed_draws_others():
    few, many = (FewMasks(share).labelled(SCANS) for share in (0.2, 0.6))
    assert {id(each) for each in few} < {id(each) for each in many}
    drawn = {frozenset(s.source.subject for s in FewMasks(0.2, n).labelled(SCANS)) for n in range(9)}  # fmt: skip
    assert len(drawn) > 4


def test_without_masks_or_share_none_is_read_and_with_all_read_all_are_looked_at():
    bare = [scan(number, masked=False) for number in range(3)]
    assert FewMasks(1.0).labelled(bare) == ()
    assert FewMasks(0.0).labelled(SCANS) == ()
    assert FewMasks(0.0).unlabelled(SCANS) == tuple(SCANS)
    assert FewMasks(1.0).unlabelled(SCANS[:4]) == tuple(SCANS[:4])


def test_what_is_missing_is_named():
    bare = [scan(number, masked=False) for number in range(3)]
    with pytest.raises(DataError, match="none of 3 scans has a mask, and loop learns") as fault:
        FewMasks(1.0).require("loop", bare, instead="--label-fraction 0", others=True)
    assert "or give --label-fraction 0." in fault.value.remedy
    with pytest.raises(DataError, match="none is left to be unlabelled"):
        FewMasks(1.0).require("loop", SCANS[:20], instead="", others=True)
    for share, others in ((1.0, False), (0.2, True)):
        assert FewMasks(share).require("loop", SCANS[:20], instead="", others=others) == SCANS[:20]
    assert FewMasks(1.0).require("loop", SCANS, instead="", others=True) == SCANS[:20]
