"""Who is held out for the pretext score, and whether test scans are seen."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from unlabeled.data.scan import ScanFile, Source
from unlabeled.errors import DataError
from unlabeled.training.selection import split_records


@dataclass(frozen=True)
class Row:
    """A record of which only the row of the index is asked."""

    source: Source

    @property
    def subject(self) -> str:
        return self.source.subject


def row(name: str, subject: str, split: str | None = None, family: str = "") -> Row:
    file = ScanFile((Path(name),), "picture")
    return Row(Source(name=name, channels=(file,), subject=subject, split=split, family=family))


ONE = [row(f"{number:02d}.png", "p") for number in range(40)]


def test_of_one_subject_nothing_is_held_out_unless_scans_are():
    assert split_records(ONE, 0) == (tuple(ONE), ())
    training, held_out = split_records(ONE, 0, by="scan")
    assert (len(training), len(held_out)) == (36, 4)
    assert {*training, *held_out} == set(ONE)
    assert split_records(ONE, 0, by="scan") == (training, held_out)
    assert split_records(ONE, 1, by="scan") != (training, held_out)


def test_named_validation_scans_are_taken_whoever_they_are_of():
    rows = [*ONE, row("v.png", "p", "val")]
    assert split_records(rows, 0, by="scan") == (tuple(ONE), (rows[-1],))


@pytest.mark.parametrize("by", ["subject", "scan"])
def test_test_scans_are_seen_where_asked_for_and_never_held_out(by):
    tested = [row(f"t{number}.png", f"t{number}", "test") for number in range(20)]
    rows = [*(row(f"{number}.png", f"q{number}") for number in range(20)), *tested]
    training, held_out = split_records(rows, 0, by=by)
    assert not {*training, *held_out} & set(tested)
    training, held_out = split_records(rows, 0, by=by, splits=("train", "test"))
    assert set(tested) <= set(training)
    assert held_out
    assert not set(held_out) & set(tested)
    with pytest.raises(DataError, match="set aside"):
        split_records(tested, 0)


@pytest.mark.parametrize("seed", range(5))
def test_relatives_are_held_out_together(seed):
    rows = [row(f"{n}.png", f"p{n}", family=f"f{n // 2}" if n < 16 else "") for n in range(20)]
    training, held_out = split_records(rows, seed, 4)
    assert len({record.source.kin for record in held_out}) == 4
    assert not {r.source.kin for r in training} & {r.source.kin for r in held_out}


def test_relatives_whom_a_manifest_sets_apart_are_refused():
    twins = [row("a.png", "a", "train", "f"), row("b.png", "b", "val", "f")]
    with pytest.raises(DataError, match=r"family of b.png is in val and in train"):
        split_records(twins, 0)
    assert split_records(twins, 0, by="scan") == ((twins[0],), (twins[1],))
    strangers = [row("a.png", "a", "train", "f"), row("b.png", "b", "val", "g")]
    assert split_records(strangers, 0) == ((strangers[0],), (strangers[1],))
