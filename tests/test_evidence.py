"""Figures of the catalogue and the README are those of the experiments: computed anew here, and compared exactly."""

from __future__ import annotations

import importlib.util
import shutil
import sys
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

from unlabeled.benchmark.measures import MEASURES
from unlabeled.benchmark.verdict import verdict
from unlabeled.catalogue import cards
from unlabeled.catalogue.evidence import (
    Measured,
    Proof,
    measured,
    proofs,
    tell_measured,
    tell_proofs,
)

ROOT = Path(__file__).resolve().parent.parent
MEND = "type: python evidence/collect.py"


@pytest.fixture(scope="module")
def collect():
    """The command as a module."""
    spec = importlib.util.spec_from_file_location("collect", ROOT / "evidence" / "collect.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def computed(collect):
    """All comparisons, computed anew."""
    return collect.all_evidence()


@pytest.mark.parametrize(
    "name", sorted(path.stem for path in (ROOT / "evidence/plans").glob("*.toml"))
)
def test_a_plan_keeps_what_its_task_is_measured_by(name):
    """What a wrong name costs is known only when hours of training are over."""
    told = tomllib.loads((ROOT / "evidence" / "plans" / f"{name}.toml").read_text())
    assert told["column"] in [measure.column for measure in MEASURES[told["task"]]]
    needed = {"truth", "predicted"} if told["column"] == "correct" else {told["column"]}
    assert needed <= set(told["keep"])
    assert told["metric"]


def test_comparisons_are_those_of_the_kept_scores(computed):
    packaged = (ROOT / "src" / "unlabeled" / "evidence.csv").read_text()
    assert packaged == computed, MEND
    assert sum(map(len, measured().values())) == len(packaged.splitlines()) - 1
    assert measured().keys() <= cards().keys()


def test_small_scale_figures_are_those_that_the_proofs_printed(collect):
    packaged = (ROOT / "src" / "unlabeled" / "small-scale.csv").read_text()
    assert packaged == collect.all_proofs(), MEND
    assert proofs().keys() <= cards().keys()


def test_the_readme_shows_every_paper_with_these_figures(collect):
    text = (ROOT / "README.md").read_text()
    assert text == collect.readme(text), MEND
    table = text.partition(collect.MARKS[0])[2].partition(collect.MARKS[1])[0]
    rows = [line for line in table.splitlines() if line.startswith("|")][2:]
    assert len(rows) == len(cards())


@pytest.mark.parametrize("plan", sorted({r.plan for rows in measured().values() for r in rows}))
def test_the_table_beside_a_plan_is_that_of_the_kept_scores(collect, plan):
    """Every mean, interval and p value of ``evidence/NAME.md`` is computed anew as well."""
    shown = (ROOT / "evidence" / f"{plan}.md").read_text()
    comparison, _ = collect.compare_plan(plan)
    assert verdict(comparison) in shown
    for cell in comparison.cells:
        start = f"| {collect.labels(cell.label_fraction)} | {cell.method} |"
        line = next(line for line in shown.splitlines() if line.startswith(start))
        score = f"{cell.score.mean:.3f} ({cell.score.low:.3f} to {cell.score.high:.3f})"
        assert line.split(" | ")[2] == score
        if cell.difference is not None:
            gap = cell.difference.interval
            between = f"{gap.mean:+.3f} ({gap.low:+.3f} to {gap.high:+.3f})"
            p = f"{cell.difference.p_holm:.2g} |"
            assert line.split(" | ")[3:] == [between, p]


@pytest.fixture
def elsewhere(collect, tmp_path):
    """A copy of the experiments to tamper with."""
    shutil.copytree(ROOT / "evidence", tmp_path / "evidence")
    return tmp_path / "evidence"


def test_a_score_that_a_hand_changed_changes_what_is_derived(collect, computed, elsewhere):
    scores = elsewhere / "hippocampus-mri.csv"
    lines = scores.read_text().splitlines()
    fields = lines[5].split(",")
    fields[5] = "0.1"
    scores.write_text("\n".join([*lines[:5], ",".join(fields), *lines[6:]]) + "\n")
    assert collect.all_evidence(elsewhere) != computed


def test_a_headline_must_name_a_figure_that_the_proof_printed(collect, elsewhere):
    (elsewhere / "headlines.csv").write_text(
        "slug,data,figure,against\nc2l,chest-xray-longitudinal,invented,chance\n"
    )
    with pytest.raises(SystemExit, match="invented"):
        collect.all_proofs(elsewhere)


def test_a_plan_that_ran_again_replaces_its_own_rows_alone(collect, tmp_path, monkeypatch):
    packaged = (ROOT / "src" / "unlabeled" / "evidence.csv").read_text()
    other = "c2l,x,classify,accuracy,5,0.5,0.6,0.1,0.0,0.2,0.5,none,3,9,another,abc"
    stale = packaged.replace(",segment,Dice,", ",segment,older,")
    (tmp_path / "evidence.csv").write_text(f"{stale}{other}\n")
    monkeypatch.setattr(collect, "PACKAGE", tmp_path)
    collect.write_plan("hippocampus-mri")
    written = (tmp_path / "evidence.csv").read_text().splitlines()
    own = [line for line in packaged.splitlines() if line.split(",")[-2] == "hippocampus-mri"]
    assert own
    assert set(own) <= set(written)
    assert other in written
    assert len(written) == len(packaged.splitlines()) + 1


def test_the_command_names_what_differs_and_writes_only_without_check(
    collect, computed, tmp_path, monkeypatch, capsys
):
    package = tmp_path / "src" / "unlabeled"
    package.mkdir(parents=True)
    for name in ("evidence.csv", "small-scale.csv"):
        shutil.copy(ROOT / "src" / "unlabeled" / name, package / name)
    shutil.copy(ROOT / "README.md", tmp_path / "README.md")
    monkeypatch.setattr(collect, "ROOT", tmp_path)
    monkeypatch.setattr(collect, "PACKAGE", package)
    monkeypatch.setattr(collect, "all_evidence", lambda: computed)
    monkeypatch.setattr(sys, "argv", ["collect.py", "--check"])
    assert collect.main() == 0
    (package / "evidence.csv").write_text(computed.replace(",0.8", ",0.9"))
    assert collect.main() == 1
    assert "src/unlabeled/evidence.csv differs" in capsys.readouterr().out
    assert (package / "evidence.csv").read_text() != computed
    monkeypatch.setattr(sys, "argv", ["collect.py"])
    assert collect.main() == 0
    assert (package / "evidence.csv").read_text() == computed


def row(finding: str) -> Measured:
    return replace(next(iter(measured().values()))[0], finding=finding)


def test_every_comparison_counts():
    assert tell_measured([]) == ""
    assert tell_measured([row("gain"), row("none"), row("none")]) == "gain in 1 of 3"
    assert tell_measured([row("none"), row("harm")]) == "gain in 0, harm in 1 of 2"


def test_a_proof_is_told_by_the_figure_that_is_read_against_another():
    told = [
        Proof(slug="x", data="phantom", figure="loss", value=2.0, against="", test="t"),
        Proof(slug="x", data="phantom", figure="top_1", value=0.5, against="chance", test="t"),
        Proof(slug="x", data="phantom", figure="chance", value=0.01, against="", test="t"),
    ]
    assert tell_proofs(told) == ("phantom: top 1 0.5, chance 0.01",)
    assert tell_proofs(told[:1]) == ()
