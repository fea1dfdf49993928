"""Scans that a method cannot learn from are refused before training, with what is missing and what would work."""

from __future__ import annotations

import csv
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from toys import TinyEncoder, Toy, ToyOptions

from unlabeled.data.index import index_scans
from unlabeled.data.intensity import IntensityRule
from unlabeled.data.scan import Unit
from unlabeled.data.store import Store
from unlabeled.errors import DataError
from unlabeled.methods._base import Needs
from unlabeled.methods._registry import find
from unlabeled.training import pretrain as pretraining
from unlabeled.training import selection


def pictures(folder, count, *, colour=False, columns=()):
    """Write pictures and a manifest with further columns, given as (name, values)."""
    rng = np.random.default_rng(0)
    rows = []
    for number in range(count):
        pixels = rng.integers(0, 255, (16, 16, 3) if colour else (16, 16), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"p{number}.png")
        row = {"image": f"p{number}.png", "subject": f"s{number // 2}"}
        rows.append(row | {name: values[number] for name, values in columns})
    path = folder / "scans.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def look(path, cache):
    index = index_scans(path, cache=cache)
    return index, Store(cache).prepare(index.sources, rule=IntensityRule()).records


def kind(**needs):
    return type("Other", (Toy,), {"needs": Needs(unit=Unit.IMAGE, dims=(2,), **needs)})


@pytest.fixture
def methods(monkeypatch):
    known = {"plain": kind(), "colours": kind(colour=True), "reader": kind(metadata=("report",))}
    monkeypatch.setattr(selection, "slugs", lambda: tuple(known))
    monkeypatch.setattr(selection, "find", known.__getitem__)
    monkeypatch.setattr(pretraining, "find", known.__getitem__)
    return known


def test_grey_scans_are_refused_by_a_method_of_colour_and_the_others_are_named(tmp_path, methods):
    index, records = look(pictures(tmp_path, 4), tmp_path / "cache")
    with pytest.raises(DataError) as refused:
        selection.meet_needs("colours", methods["colours"].needs, records, index, [])
    assert "4 of 4 scans are not in colour" in refused.value.fact
    assert "can learn from them: plain." in refused.value.remedy
    assert "colours" not in refused.value.remedy.splitlines()[0]
    assert "reader" not in refused.value.remedy


def test_scans_in_colour_pass(tmp_path, methods):
    index, records = look(pictures(tmp_path, 4, colour=True), tmp_path / "cache")
    left = []
    assert (
        selection.meet_needs("colours", methods["colours"].needs, records, index, left) == records
    )
    assert left == []


def test_scans_without_a_column_are_left_out_with_the_reason(tmp_path, methods):
    reports = ["normal heart", "", "no effusion", "large heart"]
    path = pictures(tmp_path, 4, columns=[("report", reports)])
    index, records = look(path, tmp_path / "cache")
    left = []
    kept = selection.meet_needs("reader", methods["reader"].needs, records, index, left)
    assert [record.source.name for record in kept] == ["p0.png", "p2.png", "p3.png"]
    assert [row.name for row in left] == ["p1.png"]
    assert "have no report" in left[0].reason


def test_a_column_that_no_scan_has_is_refused_before_any_file_is_opened(tmp_path, methods):
    path = pictures(tmp_path, 4)
    for file in tmp_path.glob("*.png"):
        file.write_bytes(b"broken")
    with pytest.raises(DataError, match="all 4 scans have no report"):
        pretraining.pretrain("reader", path, tmp_path / "run", cache=tmp_path / "cache", quiet=True)
    assert not (tmp_path / "run").exists()


def test_subjects_with_too_few_scans_are_left_out(tmp_path, methods):
    index, records = look(pictures(tmp_path, 5), tmp_path / "cache")
    pairs = replace(methods["plain"].needs, scans_per_subject=2)
    left = []
    kept = selection.meet_needs("pairs", pairs, records, index, left)
    assert [record.subject for record in kept] == ["s0", "s0", "s1", "s1"]
    assert [row.name for row in left] == ["p4.png"]
    few = replace(pairs, subjects=3)
    with pytest.raises(DataError, match="it needs 3"):
        selection.meet_needs("pairs", few, records, index, [])


def test_what_a_method_finds_out_by_looking_is_refused_with_the_others_named(
    tmp_path, methods, monkeypatch
):
    def suit(cls, options, records):
        raise DataError("the scans are in colour but hold none", "Give pictures in colour.")

    monkeypatch.setattr(methods["colours"], "suit", classmethod(suit), raising=False)
    monkeypatch.setattr(pretraining, "build_encoder", lambda *a, **k: TinyEncoder(2, 3))
    path = pictures(tmp_path, 4, colour=True)
    options = ToyOptions(patch_size=(8, 8), dims=2)
    with pytest.raises(DataError) as refused:
        pretraining.pretrain(
            "colours", path, tmp_path / "run", options=options, cache=tmp_path / "cache", quiet=True
        )
    assert "hold none" in refused.value.fact
    assert "Give pictures in colour.\nThese methods can learn from them: plain." in str(
        refused.value.remedy
    )


def test_enough_subjects_are_held_out_but_never_more_than_half(tmp_path, methods):
    counted = {}
    for subjects, fewest in [(2, 2), (3, 2), (4, 2), (8, 1), (8, 2), (30, 2)]:
        path = tmp_path / f"{subjects} {fewest}"
        path.mkdir()
        _, records = look(pictures(path, 2 * subjects), tmp_path / "cache")
        training, held_out = selection.split_records(records, 0, fewest)
        counted[subjects, fewest] = len({record.subject for record in held_out})
        assert not {r.subject for r in training} & {r.subject for r in held_out}
    assert counted == {(2, 2): 1, (3, 2): 1, (4, 2): 2, (8, 1): 1, (8, 2): 2, (30, 2): 3}


def test_methods_that_need_pairs_modalities_or_masks_are_not_named_for_plain_pictures(tmp_path):
    """They would refuse these in their own words."""
    manifest = pictures(tmp_path, 3)
    with pytest.raises(DataError) as told:
        selection.refuse_columns("gloria", find("gloria").needs, index_scans(manifest))
    named = told.value.remedy.partition(".")[0]
    assert "models-genesis" in named
    assert not {"arthroscopy-depth", "multimodal-puzzles", "self-loop-uncertainty"} & set(
        named.replace(",", "").split()
    )
