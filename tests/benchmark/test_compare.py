"""`unlabeled compare` from the words that a person types to its files; what is refused, and what is not done twice."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from desk import Said, type_in
from studies import Study

from unlabeled import compare
from unlabeled.benchmark import jobs
from unlabeled.benchmark.asked import Asked
from unlabeled.benchmark.jobs import Here
from unlabeled.benchmark.plan_file import read_plan, write_plan
from unlabeled.benchmark.resolve import resolve
from unlabeled.errors import DataError
from unlabeled.transfer.task import TaskName


@pytest.fixture(scope="module")
def compared(study: Study) -> tuple[Path, Said]:
    """One comparison, as a person types it."""
    out = study.root / "compared"
    return out, type_in(study.words(out))


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_comparison_leaves_figures_table_page_and_plan(
    study: Study, compared: tuple[Path, Said]
) -> None:
    out, said = compared
    assert said.code == 0, said.err
    assert "task: segment, as the labelled scans have masks" in said.err
    assert "[5/5]" in said.err
    assert "No significant gain" in said.out
    assert "core-hours" in said.out
    scores = rows(out / "scores.csv")
    assert {(row["method"], row["fraction"], row["seed"]) for row in scores} == {
        (method, fraction, "0")
        for method in ("scratch", "models-genesis")
        for fraction in ("2.0", "1.0")
    }
    assert {row["subject"] for row in scores} == {"p5", "p6"}
    assert rows(out / "failed.csv") == []
    table = (out / "table.md").read_text()
    assert "| 2 | scratch |" in table
    assert "not over new trainings" in table
    assert "one seed: figures speak of other subjects" in said.err
    assert "No significant gain" in table
    assert "<html" in (out / "report.html").read_text()
    plan = read_plan(out)
    assert plan.methods["models-genesis"]["steps"] == 2
    assert plan.finetuning["patch_size"] == (16, 16)
    assert (plan.fractions, plan.seeds, plan.part) == ((2.0, 1.0), 1, "test")


def test_the_same_words_again_run_nothing_and_print_json(
    study: Study, compared: tuple[Path, Said], monkeypatch: pytest.MonkeyPatch
) -> None:
    out, first = compared

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a worker was started")

    monkeypatch.setattr("unlabeled.benchmark.engines._Worker.do", refuse)
    before = (out / "scores.csv").read_bytes()
    said = type_in(study.words(out, "--json", "--quiet"))
    assert (said.code, said.err) == (0, "")
    told = json.loads(said.out)
    assert told["verdict"] in first.out
    assert len(told["cells"]) == 4
    assert all(0 <= end <= 1 for cell in told["cells"] for end in cell["score"])
    assert told["cost"]["models-genesis"]["core_hours"][0] > 0
    assert (out / "scores.csv").read_bytes() == before


CHANGED: dict[str, tuple[str, ...]] = {
    "steps=3": ("fine-tuning was with --steps 2, and the plan says 3 (4 runs)", "rm -r"),
    "pretrain_steps=3": (
        "models-genesis was pretrained with --steps 2, and the plan says 3 (3 runs)",
        "pretrain-models-genesis",
    ),
    "patch_size=24 24": ("--patch-size 16 16, and the plan says 24 24", "another --out"),
}


@pytest.mark.parametrize("more", CHANGED)
def test_runs_of_another_plan_are_not_taken(
    study: Study, compared: tuple[Path, Said], more: str
) -> None:
    out, _ = compared
    said = type_in(study.words(out, **dict([more.split("=")])))
    assert said.code == 2
    told = " ".join(said.err.split())
    assert [text for text in CHANGED[more] if text not in told] == [], told


def test_other_scans_are_told_from_those_learnt_from(
    study: Study, compared: tuple[Path, Said], tmp_path: Path
) -> None:
    out, _ = compared
    for path in sorted(study.scans.iterdir())[:5]:
        (tmp_path / "scans").mkdir(exist_ok=True)
        shutil.copy(path, tmp_path / "scans")
    typed = study.words(out)
    typed[1] = tmp_path / "scans"
    said = type_in(typed)
    assert said.code == 2
    assert "models-genesis learnt from other scans" in said.err


WRONG: dict[str, tuple[str, ...]] = {
    "--methods model-genesis": ("unknown method 'model-genesis'", "Did you mean models-genesis?"),
    "--methods gloria": ("gloria cannot learn from", "have no report", "models-genesis"),
    "--methods rubiks-cube,gloria": ("rubiks-cube works in 3D", "gloria cannot learn"),
    "--methods scratch": ("no method is named", "--methods all"),
    "--methods models-genesis --dims 3": ("have 2 axes of space",),
    "--label-fractions 0,1": ("--label-fractions holds 0", "Give shares above 0"),
    "--label-fractions few": ("'few', which is no number", "0.05,0.1,1"),
    "--label-fractions 2.5": ("neither a share nor a number",),
    "--label-fractions 500": ("500 labelled subjects were asked for, and there are 4",),
    "--seeds 0": ("--seeds is 0", "at least 1"),
    "--part train": ("not one of val, test",),
    "--encoder resnet99": ("unknown encoder 'resnet99'", "resnet50"),
    "--task classify": ("has a label", "segment mask"),
    "--pretrain-lr 0": ("--pretrain-lr is 0.0, outside its range",),
    "--patch-size 16": ("has 1 edges",),
    "--stepz 3": ("unknown option --stepz", "Did you mean --steps?"),
    "--jobs 0": ("--jobs is 0", "at least 1"),
    "--config none.toml": ("cannot read none.toml",),
    "--config strange.toml": ("what no plan has: method", "Did you mean methods?"),
    "--config seed.toml": ("fine-tuning sets seed", "--seeds"),
    "--config devices.toml": ("several devices a run", "--jobs or --engine ray"),
    "--config networks.toml --methods models-genesis,c2l": ("the networks differ", "--encoder"),
    "--engine slurm": ("not one of local, ray",),
}


@pytest.mark.parametrize("more", WRONG)
def test_what_cannot_be_compared_is_refused_before_anything_runs(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("strange.toml").write_text('method = ["models-genesis"]')
    Path("seed.toml").write_text("[finetuning]\nseed = 3")
    Path("devices.toml").write_text("[settings]\ndevices = 2")
    Path("networks.toml").write_text(
        '[methods.models-genesis]\nencoder = "unet"\n[methods.c2l]\nencoder = "resnet18"'
    )
    typed = ["compare", study.scans, study.labelled, "--out", "new", "--cache", study.cache]
    added = more.split()
    usual = [] if "--methods" in added else ["--methods", "models-genesis"]
    said = type_in([*typed, *usual, *added])
    assert said.code == 2, said
    told = " ".join(said.err.split())
    assert "Traceback" not in told
    assert [text for text in WRONG[more] if text not in told] == [], told
    assert not list(Path("new").rglob("run.json"))


def test_labelled_scans_without_test_subjects_are_refused(study: Study, tmp_path: Path) -> None:
    untested = study.labelled.with_name("untested.csv")
    typed = study.words(tmp_path / "new")
    typed[2] = untested
    said = type_in(typed)
    assert said.code == 2
    assert "has no test subjects (4 train, 1 val, 0 test)" in said.err


def test_all_takes_what_fits_and_says_what_does_not(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Nothing:
        places = 1

        def run(self, *args: Any) -> Any:
            return iter(())

    monkeypatch.setattr("unlabeled.benchmark.compare._engine", lambda *args: Nothing())
    lines: list[str] = []
    done = compare(
        study.scans,
        study.labelled,
        out=tmp_path / "out",
        methods=["all"],
        cache=study.cache,
        say=lines.append,
    )
    assert {"models-genesis", "c2l", "shape-landmarks"} <= set(done.plan.methods)
    assert {"rubiks-cube", "gloria", "endoscopic-recolorization"} <= set(done.left_out)
    assert any(line.startswith("left out: gloria, as cannot learn") for line in lines)
    assert any("networks differ" in note for note in done.notes)
    assert {options["encoder"] for options in done.plan.methods.values()} == {"resenc-s"}
    assert done.verdict.startswith("Nothing could be measured")


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Perform runs in this process, where faults can be put in."""
    monkeypatch.setattr("unlabeled.benchmark.compare._engine", lambda *args: Here())


@pytest.mark.parametrize(
    ("fault", "code", "whose", "word"),
    [
        (ZeroDivisionError("division"), 1, "ours or the machine's", "a fault of Unlabeled"),
        (MemoryError(), 2, "the person's", "memory is used up"),
        (DataError("the masks are empty", "Draw some."), 2, "the person's", "the masks are empty"),
    ],
)
@pytest.mark.usefixtures("here")
def test_a_run_that_fails_is_named_and_stops_nothing(
    study: Study,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fault: Exception,
    code: int,
    whose: str,
    word: str,
) -> None:
    original = jobs.finetune

    def fail(task: TaskName, labelled: Path, run: Path, **given: Any) -> Any:
        if run.name == "scratch-2-seed1":
            raise fault
        return original(task, labelled, run, **given)

    monkeypatch.setattr(jobs, "finetune", fail)
    out = tmp_path / "out"
    said = type_in(study.words(out, label_fractions="2", seeds="2"))
    assert said.code == code, said.err
    (row,) = rows(out / "failed.csv")
    assert (row["run"], row["whose fault"]) == ("scratch-2-seed1", whose)
    assert word in row["message"]
    assert "not done: scratch, labels: 2, seed 1" in said.err
    assert "1 run not done" in said.out
    measured = {(row["method"], row["seed"]) for row in rows(out / "scores.csv")}
    assert measured == {("scratch", "0"), ("models-genesis", "0"), ("models-genesis", "1")}
    for name in ("table.md", "report.html"):
        assert "scratch-2-seed1" in (out / name).read_text()
    monkeypatch.setattr(jobs, "finetune", original)
    again = type_in(study.words(out, label_fractions="2", seeds="2"))
    assert again.code == 0
    assert "[1/1]" in again.err
    assert rows(out / "failed.csv") == []


@pytest.mark.usefixtures("here")
def test_when_every_pretraining_fails_the_verdict_says_so(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any, **given: Any) -> Any:
        raise OSError(28, "No space left on device", "run")

    monkeypatch.setattr(jobs, "pretrain", fail)
    out = tmp_path / "out"
    said = type_in(study.words(out, label_fractions="2"))
    assert said.code == 2
    assert "Every pretraining failed" in said.out
    assert [row["run"] for row in rows(out / "failed.csv")] == [
        "pretrain-models-genesis",
        "models-genesis-2-seed0",
    ]
    assert {row["method"] for row in rows(out / "scores.csv")} == {"scratch"}


@pytest.mark.usefixtures("here")
def test_a_class_is_guessed_and_measured_by_accuracy(study: Study, tmp_path: Path) -> None:
    typed = study.words(tmp_path / "out", label_fractions="1", patch_size="24 24")
    typed[2] = study.labelled.with_name("classes.csv")
    said = type_in(typed)
    assert said.code == 0, said.err
    assert "task: classify, as the labelled scans have labels" in said.err
    table = (tmp_path / "out" / "table.md").read_text()
    assert "accuracy (95 % interval)" in table
    assert "AUC, mean of seeds" in table


def test_what_differs_by_method_comes_from_the_plan_file(study: Study, tmp_path: Path) -> None:
    config = tmp_path / "plan.toml"
    config.write_text(
        'title = "Two methods"\nseeds = 2\nfractions = [2, 1.0]\n'
        "[methods.models-genesis]\nlr = 0.5\n[methods.c2l]\nqueue = 64\n"
        "[finetuning]\nsteps = 7\nlr = 0.01\n[settings]\nlog_every = 3\n"
    )
    asked = Asked(
        scans=study.scans,
        labelled=study.labelled,
        config=config,
        values={"encoder": "resenc-tiny", "steps": 5, "pretrain_steps": 9},
    )
    plan = resolve(asked, study.cache).plan
    shared = {"encoder": "resenc-tiny", "dims": 2, "steps": 9}
    assert plan.methods == {
        "models-genesis": {**shared, "lr": 0.5},
        "c2l": {**shared, "queue": 64},
    }
    assert (plan.finetuning["steps"], plan.finetuning["lr"]) == (5, 0.01)  # typed before read
    assert (plan.title, plan.seeds, plan.fractions) == ("Two methods", 2, (2.0, 1.0))
    assert plan.settings == {"log_every": 3}
    write_plan(plan, tmp_path)
    assert read_plan(tmp_path) == plan


def test_runs_of_a_folder_without_a_plan_are_taken_as_they_are(
    study: Study, compared: tuple[Path, Said], tmp_path: Path
) -> None:
    out, _ = compared
    old = tmp_path / "old"
    shutil.copytree(out, old, ignore=shutil.ignore_patterns("asked.json", "plan.toml", "*.csv"))
    for metrics in (out / "test").glob("*/metrics.csv"):
        shutil.copy(metrics, old / "test" / metrics.parent.name)
    before = {path: path.read_bytes() for path in old.rglob("run.json")}
    said = type_in(study.words(old))
    assert said.code == 0
    assert "5 done already" in said.err
    assert {path: path.read_bytes() for path in old.rglob("run.json")} == before
    assert (old / "scores.csv").read_bytes() == (out / "scores.csv").read_bytes()
