"""Which scans are shown, and what is said of them; curves of logs with gaps."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from unlabeled.benchmark import learning
from unlabeled.benchmark.examples import find_examples
from unlabeled.benchmark.measures import compare_measures
from unlabeled.benchmark.pictures import cut_out, middle_of, shown, shrink
from unlabeled.benchmark.plan import Outcome, Plan
from unlabeled.benchmark.summary import aucs_of
from unlabeled.transfer.metrics import roc_auc

LIKELY = {
    "s0": 0.9,
    "s1": 0.7,
    "s2": 0.6,
    "s3": 0.4,
    "s4": 0.1,
}  # of ap, as the pretrained network says


@pytest.fixture
def classified(tmp_path):
    """Five radiographs, two methods, one label fraction; what the networks said, without networks."""
    rows = ["image,subject,label,split"]
    for number in range(5):
        picture = np.full((12, 12), 40 * number, np.uint8)
        picture[number] = 255
        Image.fromarray(picture).save(tmp_path / f"s{number}.png")
        rows.append(f"s{number}.png,s{number},{'ap' if number < 3 else 'pa'},test")
    (tmp_path / "all.csv").write_text("\n".join(rows))
    plan = Plan(
        scans=tmp_path, labelled=tmp_path / "all.csv", task="classify", methods={"c2l": {}},
        fractions=(2,), seeds=1,
    )  # fmt: skip
    measured = []
    for method, likely in (("scratch", dict.fromkeys(LIKELY, 0.8)), ("c2l", LIKELY)):
        for who, ap in likely.items():
            truth, said = "ap" if who < "s3" else "pa", "ap" if ap > 0.5 else "pa"
            about = {
                "method": method,
                "fraction": 2,
                "seed": 0,
                "subject": who,
                "scan": f"{who}.png",
            }
            told = {"truth": truth, "predicted": said, "correct": float(truth == said)}
            measured.append({**about, **told, "p ap": str(ap), "p pa": str(1 - ap)})
    return plan, Outcome(tuple(measured), {}, {}), tmp_path / "out"


def examples_of(classified, names=None):
    plan, outcome, out = classified
    measured = compare_measures(plan.task, outcome)
    return find_examples(plan, outcome, out, measured, names or {}, {}, cache=out / "cache")


def test_the_best_median_and_worst_scan_are_shown_with_truth_and_answers(classified):
    found = examples_of(classified, {"scratch": "From scratch"})
    assert [each.title for each in found.shown] == ["Best", "Median", "Worst"]
    best, median, worst = (
        each.text for each in found.shown
    )  # p of the truth: s0 and s4 0.9, s1 0.7
    assert best == (
        "Truth: ap. From scratch: ap (probability 0.800), right; c2l: ap (probability 0.900), right."
    )
    assert "c2l: ap (probability 0.700), right" in median
    assert worst == (
        "Truth: pa. From scratch: ap (probability 0.800), wrong; c2l: pa (probability 0.600), right."
    )
    assert all(len(each.pictures) == 1 for each in found.shown)
    assert "with 2 labelled subjects" in found.about
    assert not any(f"s{number}" in each.text for each in found.shown for number in range(5))


def test_fewer_scans_than_ranks_are_shown_once_each(classified):
    plan, outcome, out = classified
    few = tuple(row for row in outcome.rows if row["subject"] == "s0")
    found = examples_of((plan, replace(outcome, rows=few), out))
    assert [each.title for each in found.shown] == ["Best"]


def test_scans_that_are_gone_are_said_to_be_gone(classified):
    plan, outcome, out = classified
    for picture in plan.scans.glob("*.png"):
        picture.unlink()
    found = examples_of((plan, outcome, out))
    assert found.shown == ()
    assert "any more" in found.about


def test_the_auc_of_a_page_is_that_of_the_measure(classified):
    _, outcome, _ = classified
    found = {each.method: each.mean for each in aucs_of(outcome)}
    truth = np.array([1, 1, 1, 0, 0])
    assert found["c2l"] == pytest.approx(roc_auc(np.array(list(LIKELY.values())), truth))
    assert found["scratch"] == pytest.approx(0.5)
    assert (
        aucs_of(
            replace(
                outcome, rows=tuple({"dice": 1, **r} for r in outcome.rows if r["truth"] == "ap")
            )
        )
        == ()
    )


def test_a_log_with_gaps_gives_what_there_is(tmp_path):
    lines = [
        json.dumps({"phase": "pretrain", "total": 10 * step, "loss": 1 / (1 + step), "lr": 1e-3})
        for step in range(1000)
    ]
    lines[5] = json.dumps({"phase": "pretrain", "total": 50, "loss": math.nan, "lr": 1e-3})
    scored = {
        "phase": "pretrain",
        "epoch": 1,
        "step": 0,
        "held_out": {"accuracy": 0.9, "chance": 0.5},
    }
    lines.insert(11, json.dumps(scored))
    (tmp_path / "log.jsonl").write_text("\n".join([*lines, '{"phase": "pre']))
    rows = learning.log_rows(tmp_path)
    assert len(rows) == 1001
    (curve,) = learning.loss_curves(rows, "x", 1)
    series = curve.series[0]
    assert len(series.x) <= learning.MOST + 1
    assert series.x[-1] == 9990
    assert all(one < other for one, other in pairwise(series.x))
    assert all(map(math.isfinite, series.y))
    assert learning.rows_with_steps(rows)[0]["total"] == 100
    (scores,) = learning.score_curves(rows, "x", "rubiks-cube", 1)
    assert [(s.x, s.y) for s in scores.series] == [((100.0,), (0.9,)), ((100.0,), (0.5,))]
    assert learning.log_rows(tmp_path / "none") == []


def test_a_small_region_is_cut_out_whole_within_the_picture():
    mask = np.zeros((500, 300), int)
    mask[480:499, 5:30] = 1
    window = cut_out([mask, np.zeros_like(mask)])
    assert mask[window].sum() == mask.sum()
    assert mask[window].shape == (136, 136)
    assert cut_out([np.zeros((40, 50), int)]) == (slice(0, 40), slice(0, 50))
    small = np.ones((20, 30), int)
    assert small[cut_out([small])].shape == (20, 30)


def test_the_slice_with_most_of_the_truth_is_shown():
    mask = np.zeros((4, 5, 6), int)
    mask[1:3, 1:3, 2] = 1
    assert middle_of(mask.astype(float), mask) == 2
    assert middle_of(mask.astype(float), None) == 3
    assert middle_of(mask[..., 0].astype(float), None) == 0
    assert shown(mask, 2).shape == (5, 4)


def test_pictures_are_made_to_fit_and_small_ones_stay(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (900, 1400, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "big.png")
    Image.fromarray(np.zeros((10, 10), np.uint8)).save(tmp_path / "small.png")
    big, small = ((tmp_path / f"{name}.png").read_bytes() for name in ("big", "small"))
    made = shrink(big)
    assert made.startswith(b"\xff\xd8")
    assert len(made) < len(big) / 3
    assert shrink(small) == small
