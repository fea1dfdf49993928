"""A plan of cells: each run once, picked up where it stopped, failures named; and what a report shows of it."""

from __future__ import annotations

import csv
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from unlabeled.benchmark import jobs
from unlabeled.benchmark.jobs import run_plan
from unlabeled.benchmark.plan import SCRATCH, Cell, Plan, collect, place_of
from unlabeled.benchmark.plan_file import write_plan
from unlabeled.benchmark.summary import write_comparison
from unlabeled.cli.app import run
from unlabeled.demo.phantoms import write_patients
from unlabeled.training.log import RunFolder

SMALL = {"encoder": "resenc-tiny", "patch_size": (16, 16, 16), "batch_size": 2, "steps": 2}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A plan of two fractions and one seed, and where it runs."""
    place = tmp_path_factory.mktemp("plan")
    write_patients(place / "scans", patients=4, shape=(20, 20, 20))
    write_patients(place / "labelled", patients=8, shape=(20, 20, 20), labelled=True, seed=1)
    rows = [
        {
            "image": f"images/{image.name}",
            "mask": f"labels/{image.name}",
            "subject": f"p{number}",
            "split": ("train", "train", "train", "val", "test", "test", "test", "test")[number],
        }
        for number, image in enumerate(sorted((place / "labelled" / "images").iterdir()))
    ]
    manifest = place / "labelled" / "labelled.csv"
    with manifest.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    plan = Plan(
        scans=place / "scans",
        labelled=manifest,
        task="segment",
        methods={"models-genesis": {**SMALL, "optimiser": "adam", "lr": 1e-3}},
        fractions=(2, 1.0),
        seeds=1,
        finetuning={"steps": 2, "epochs": 1, "batch_size": 2},
        settings={"quiet": True, "accelerator": "cpu", "log_every": 1},
    )
    return plan, place / "out", place / "cache"


@pytest.fixture(scope="module")
def outcome(tiny):
    plan, out, cache = tiny
    return run_plan(plan, out, cache=cache)


def test_every_cell_is_measured_on_the_same_subjects(tiny, outcome):
    plan, _, _ = tiny
    assert not outcome.failed
    cells = Counter((row["method"], row["fraction"], row["seed"]) for row in outcome.rows)
    assert set(cells) == {(cell.method, cell.fraction, cell.seed) for cell in plan.cells}
    subjects = {
        method: {row["subject"] for row in outcome.rows if row["method"] == method}
        for method in (SCRATCH, "models-genesis")
    }
    assert len(subjects[SCRATCH]) == 4
    assert subjects[SCRATCH] == subjects["models-genesis"]


def test_the_fraction_decides_how_many_are_trained_on(tiny, outcome):
    plan, out, _ = tiny
    trained = {
        cell.fraction: RunFolder(place_of(plan, cell, out)).read_facts()["subjects"]["train"]
        for cell in plan.cells
    }
    assert trained == {2: 2, 1.0: 3}


def test_what_has_run_is_not_run_again_and_what_is_missing_is(tiny, outcome, monkeypatch):
    plan, out, cache = tiny
    asked = []
    original = jobs.finetune

    def counted(*args, **kwargs):
        asked.append(args[2].name)
        return original(*args, **kwargs)

    monkeypatch.setattr(jobs, "finetune", counted)
    again = run_plan(plan, out, cache=cache)
    assert asked == []
    assert again.rows == outcome.rows
    missing = place_of(plan, Cell(SCRATCH, 2, 0), out)
    missing.rename(missing.with_name("away"))
    third = run_plan(plan, out, cache=cache)
    assert asked == [missing.name]
    assert third.rows == outcome.rows


def test_a_cell_that_fails_is_named_and_stops_nothing(tiny, outcome):
    plan, out, cache = tiny
    found = run_plan(replace(plan, fractions=(2, 500)), out, cache=cache)
    assert set(found.failed) == {"scratch-500-seed0", "models-genesis-500-seed0"}
    assert {row["fraction"] for row in found.rows} == {2}
    assert set(collect(replace(plan, fractions=(2, 500)), out).failed) == set(found.failed)
    assert not collect(plan, out).failed  # faults of another plan in the same folder


def test_an_interruption_ends_the_plan(tiny, monkeypatch, outcome):
    plan, _, _ = tiny

    def interrupted(*args, **kwargs):
        class Done:
            result = type("Result", (), {"exit_reason": "interrupted"})()

        return Done()

    monkeypatch.setattr(jobs, "finetune", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_plan(plan, tiny[1] / "other", cache=tiny[2])


def test_scores_average_the_classes_of_a_subject(outcome):
    scores = outcome.scores("dice")
    one = scores[0]
    rows = [
        float(row["dice"])
        for row in outcome.rows
        if (row["method"], row["fraction"], row["seed"], row["subject"])
        == (one.method, float(one.label_fraction), one.seed, one.subject)
    ]
    assert one.value == pytest.approx(np.mean(rows))


def test_the_page_is_made_of_plan_and_run_folders_alone(tiny, outcome):
    plan, out, cache = tiny
    page = write_comparison(plan, outcome, out, cache=cache)
    assert page == out / "report.html"
    text = page.read_text()
    for part in (
        *("Best", "Median", "Worst", "models-genesis: training loss", "MICCAI", "data:image/png"),
        *("4 test subjects", "all labels (3 subjects)", "One random start", "core-hours"),
        *("An encoder-decoder sees a deformed patch", "unlabeled report out"),
    ):
        assert part in text, part
    masks = sorted(path.parts[-3] for path in (out / "predictions").rglob("*.nii.gz"))
    assert masks == 3 * ["models-genesis-2-seed0"] + 3 * ["scratch-2-seed0"]
    assert collect(plan, out).seconds["models-genesis"]["pretraining"] > 0


def test_what_has_not_run_is_named_on_the_page(tiny, outcome):
    plan, out, cache = tiny
    wider = replace(plan, fractions=(2, 500), seeds=2)
    found = replace(collect(wider, out), failed={"scratch-500-seed0": "too few subjects"})
    text = write_comparison(wider, found, out, cache=cache, to=out / "wider.html").read_text()
    assert "2 of 8 cells have figures" in text
    assert "too few subjects" in text
    assert "models-genesis-2-seed1" in text
    nothing = replace(plan, part="val")
    empty = write_comparison(nothing, collect(nothing, out), out, to=out / "none.html").read_text()
    assert "nothing can be said yet" in empty


def test_the_page_is_written_again_from_the_folder_by_its_command(tiny, outcome, monkeypatch):
    plan, out, cache = tiny
    write_plan(plan, out)
    monkeypatch.setenv("COLUMNS", "200")
    words = ["report", str(out), "--out", str(out / "again.html"), "--cache", str(cache)]
    assert run(words) == 0
    page = (out / "again.html").read_text()
    found = collect(plan, out)  # other tests have run a cell again, in other seconds
    assert page == write_comparison(plan, found, out, cache=cache).read_text()
    assert f"unlabeled compare --config {out.name}/plan.toml" in page
    assert str(plan.scans) not in page  # no place of this machine
    (out / "plan.toml").write_text('task = "segment"')
    assert run(words) == 2


def test_scans_that_are_gone_cost_the_examples_alone(tiny, outcome):
    plan, out, cache = tiny
    away = replace(plan, labelled=plan.labelled.with_name("gone.csv"))
    text = write_comparison(away, outcome, out, cache=cache, to=out / "away.html").read_text()
    assert "cannot be read any more" in text
    assert "models-genesis: training loss" in text
