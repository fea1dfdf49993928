"""`unlabeled report RUN`: the page of a run that has finished, was cut off or failed; and what is said of other folders."""

from __future__ import annotations

import json
import re
import shutil

import pytest
from desk import type_in


@pytest.fixture
def copied(desk, finetuned, tmp_path):
    """A copy of a run folder, to be damaged."""

    def copy(name):
        return shutil.copytree(desk / name, tmp_path / name)

    return copy


def words_of(path):
    text = re.sub(r"(?s)<(style|script)>.*?</\1>", " ", path.read_text())
    return " ".join(re.sub(r"<[^>]+>", " ", text).split())


def test_the_page_of_a_pretraining(desk, pretrained, copied):
    run = copied("run1")
    said = type_in(["report", run])
    assert (said.code, said.err) == (0, "")
    assert said.out == f"wrote {run}/report.html\n"
    words = words_of(run / "report.html")
    for part in (
        *(
            "Pretraining: models-genesis",
            "Finished after 4 steps",
            "scans a second",
            "Waited for data",
        ),
        *("Training loss", "Pretext score", "Learning rate", "knowing nothing", "mse damaged"),
        *("Files left out: 1", "patch_size", "command line", "default", "BibTeX", "MICCAI"),
        *("Data fingerprint", "unlabeled finetune segment LABELLED --init run1 --out TASK"),
    ):
        assert part in words, part
    page = (run / "report.html").read_text()
    assert page.count("data:image/") >= 1
    assert str(desk) not in page  # no path of this machine


def test_the_page_of_a_fine_tuning_names_every_class_with_its_interval(desk, copied, tmp_path):
    run = copied("run2")
    out = tmp_path / "pages" / "two.html"
    assert type_in(["report", run, "--out", out]).code == 0
    words = words_of(out)
    told = json.loads((run / "metrics.json").read_text())["val"]["measures"]
    for name, value in told.items():
        if value["value"] is not None:
            assert f"{value['value']:.3f}" in words, name
    for part in (
        "Fine-tuning: segment",
        "Dice",
        "HD95",
        "tensors matched",
        "unlabeled predict run2",
    ):
        assert part in words, part
    assert not (run / "report.html").exists()


@pytest.mark.parametrize(
    ("facts", "says"),
    [
        ({"finished": False, "exit_reason": "running"}, "Running, or cut off"),
        ({"finished": False, "exit_reason": "interrupted"}, "Interrupted after 4 steps"),
        ({"finished": False, "exit_reason": "failed: the disk is full"}, "the disk is full"),
    ],
)
def test_a_run_that_has_not_finished_says_so(copied, facts, says):
    run = copied("run1")
    told = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**told, **facts}))
    with (run / "log.jsonl").open("a") as log:
        log.write('{"phase": "pretrain", "total": 5, "lo')  # a line that is being written
    assert type_in(["report", run]).code == 0
    words = words_of(run / "report.html")
    assert says in words
    assert "--resume" in words
    assert "Finished" not in words


def test_a_run_that_has_just_begun_has_a_page(copied):
    run = copied("run1")
    for name in ("log.jsonl", "quarantine.csv", "options.toml", "encoder.safetensors"):
        (run / name).unlink()
    shutil.rmtree(run / "previews")
    told = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**told, "finished": False, "exit_reason": "running"}))
    assert type_in(["report", run]).code == 0
    assert "0 steps so far" in words_of(run / "report.html")


def test_what_is_no_run_is_refused_with_what_to_type(desk, finetuned, copied, tmp_path):
    for typed, fact, remedy in (
        ("nowhere", "nowhere is not there", "unlabeled pretrain"),
        ("pics.csv", "pics.csv is a file", "unlabeled pretrain"),
        ("empty", "empty holds neither a run nor a comparison", "unlabeled pretrain"),
        (".", ". holds neither a run nor a comparison", "Did you mean "),
    ):
        said = type_in(["report", typed])
        assert said.code == 2, typed
        assert fact in said.err
        assert remedy in said.err
    said = type_in(["report", "run1", "--out", "empty"])
    assert said.code == 2
    assert "--out empty/report.html" in said.err
    run = copied("run1")
    (run / "run.json").write_text("{")
    said = type_in(["report", run])
    assert (said.code, "damaged" in said.err) == (2, True)
    (tmp_path / "file").write_text("")
    said = type_in(["report", "run1", "--out", tmp_path / "file" / "page.html"])
    assert said.code == 2
    assert "cannot write" in said.err
