"""``unlabeled estimate`` as a person types it: what is said, what is refused, and that nothing is left behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from desk import TINY, type_in

import unlabeled
from unlabeled.training import estimate as estimating
from unlabeled.training.rehearsal import rehearse

QUICK = [*TINY, "--steps", "6", "--trial-seconds", "8"]


@pytest.fixture
def here(desk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Try in this process: another one takes seconds to start."""

    def try_here(job, seconds, say):
        place = tmp_path / "trial"
        place.mkdir()
        try:
            return rehearse(job, place, seconds, say, time.time())
        finally:
            shutil.rmtree(place)

    monkeypatch.setattr(estimating, "rehearse_aside", try_here)
    monkeypatch.setenv("COLUMNS", "200")
    return desk


def names_below(folder: Path) -> set[str]:
    return {str(path) for path in folder.rglob("*")}


def test_time_memory_and_disk_are_told_and_nothing_is_left(here: Path, tmp_path: Path) -> None:
    before = names_below(here), names_below(Path(os.environ["UNLABELED_CACHE"]))
    cache = tmp_path / "cache"
    said = type_in(["estimate", "models-genesis", "scans", *QUICK, "--cache", cache])
    assert said.code == 0, said.err
    assert (
        "models-genesis: 5 scans, 1 left out; 6 steps. Tried: 6 of 6 scans to prepare, " in said.out
    )
    table = [line.split()[0] for line in said.out.splitlines() if line]
    assert {"time", "memory", "disk", "bottleneck:", "training"} <= set(table)
    assert " store + " in said.out
    assert "note: the run may end sooner: after 50 scores" in said.out
    assert (names_below(here), names_below(Path(os.environ["UNLABELED_CACHE"]))) == before
    assert not cache.exists()


def test_an_estimate_is_also_json_and_counts_what_is_prepared(here: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    words = ["models-genesis", "scans", *TINY, "--steps", "6", "--cache", cache]
    assert type_in(["pretrain", *words, "--out", tmp_path / "run", "--quiet"]).code == 0
    before = names_below(cache)
    said = type_in(["estimate", *words, "--trial-seconds", "0.1", "--json", "--quiet"])
    assert (said.code, said.err) == (0, "")
    told = json.loads(said.out)
    assert told["measured"]["preparation"]["held"] == 5
    assert told["forecast"]["store_bytes"] == 0
    assert told["forecast"]["steps"] == 6
    assert told["forecast"]["low"] < told["forecast"]["seconds"] < told["forecast"]["high"]
    assert names_below(cache) == before
    run = sum(path.stat().st_size for path in (tmp_path / "run").rglob("*") if path.is_file())
    assert told["forecast"]["run_bytes"] == pytest.approx(run, rel=0.02)


def test_python_says_the_same(here: Path, tmp_path: Path) -> None:
    heard: list[str] = []
    found = unlabeled.estimate(
        "models-genesis",
        here / "scans",
        encoder="resenc-tiny",
        patch_size=(16, 16, 16),
        batch_size=2,
        steps=6,
        accelerator="cpu",
        cache=tmp_path / "cache",
        trial_seconds=0.1,
        say=heard.append,
    )
    assert found.forecast.steps == 6
    assert found.seconds > 0
    assert found.disk == found.forecast.store_bytes + found.forecast.run_bytes
    assert heard[0] == "looking at the scans"
    assert any("phase pretrain" in text for text in heard)


WRONG = {
    "estimate": ("needs SLUG", "Type: unlabeled estimate SLUG SCANS"),
    "estimate models-genesis": ("needs SCANS",),
    "estimate model-genesis scans": ("Did you mean models-genesis?",),
    "estimate --json --quiet model-genesis scans": ("Did you mean models-genesis?",),
    "estimate gloria scans": ("all 6 scans have no report", "can learn from them:"),
    "estimate models-genesis nowhere": ("nowhere does not exist",),
    "estimate models-genesis empty": ("empty holds no files",),
    "estimate models-genesis scans --epoch 3": ("Did you mean --epochs?",),
    "estimate models-genesis scans --epochs 0": ("--epochs is 0", "at least 1"),
    "estimate models-genesis scans --out run": ("unknown option --out",),
    "estimate models-genesis scans --resume": ("unknown option --resume",),
    "estimate models-genesis scans --encoder resnet99": ("unknown encoder 'resnet99'",),
    "estimate models-genesis scans --patch-size 16 16": ("has 2 edges", "--dims 2"),
    "estimate models-genesis scans --devices 2": ("one device, not on 2", "Leave --devices"),
    "estimate models-genesis scans --trial-seconds no": ("--trial-seconds is 'no', not a number",),
    "estimate models-genesis scans --trial-seconds 0": ("--trial-seconds is 0", "above 0"),
    "estimate models-genesis scans --init nothing": ("nothing does not exist", "--init"),
    "estimate models-genesis pics --dims 3": ("can be used",),
}


@pytest.mark.parametrize("words", WRONG)
def test_a_mistake_is_told_as_pretrain_tells_it(here: Path, words: str) -> None:
    said = type_in([*words.split(), *([] if "--trial" in words else ["--trial-seconds", "0.1"])])
    assert said.code == 2, said
    assert said.err.startswith("error: ")
    assert "Traceback" not in said.err
    for each in WRONG[words]:
        assert each in said.err
    if not {"--trial-seconds", "--out", "--resume", "--devices"} & set(words.split()):
        typed = words.replace("estimate", "pretrain", 1).split()
        again = type_in([*typed, "--out", "never", "--quiet"])
        assert again.err.replace("pretrain", "estimate").splitlines()[0] == said.err.splitlines()[0]


def test_help_shows_the_methods_own_options_and_its_time(desk: Path) -> None:
    said = type_in(["estimate", "models-genesis", "--help"])
    assert said.code == 0
    for each in ("--p-inpaint", "--epochs", "--workers", "--trial-seconds", "--json"):
        assert each in said.out
    assert "--resume" not in said.out
    assert "--out" not in said.out


def start(scans: Path, temporary: Path) -> subprocess.Popen[bytes]:
    words = ["estimate", "models-genesis", str(scans), *TINY, "--cache", str(temporary / "cache")]
    words += ["--trial-seconds", "500", "--epochs", "100000"]
    command = [sys.executable, "-m", "unlabeled", *words]
    environment = {**os.environ, "TMPDIR": str(temporary), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE)


def until(condition, seconds: float = 120.0) -> None:
    ends = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends
        time.sleep(0.1)


def process_of(place: Path) -> list[str]:
    """Name the processes that work for a trial in this folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().decode().split("\0")
        except OSError:
            continue
        if any(word.startswith(str(place)) for word in words) and "unlabeled" in words[2][:9]:
            found.append(path.parent.name)
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, -15), (signal.SIGKILL, -9)]
)
def test_an_interrupted_estimate_leaves_neither_files_nor_processes(
    desk: Path, tmp_path: Path, number: int, code: int
) -> None:
    with start(desk / "scans", tmp_path) as process:
        until(lambda: process.poll() or list(tmp_path.glob("unlabeled-trial-*/run/log.jsonl")))
        assert process.poll() is None
        process.send_signal(number)
        said = process.stderr.read().decode() if number == signal.SIGINT else ""
        assert process.wait(60) == code
    if number == signal.SIGINT:
        assert said.strip() == "interrupted"
    until(lambda: not list(tmp_path.glob("unlabeled-trial-*")), 30)
    until(lambda: not process_of(tmp_path / "unlabeled-trial-"), 30)
    assert not (tmp_path / "cache").exists()


@pytest.mark.slow
def test_the_real_process_tells_and_leaves_nothing(desk: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    words = ["estimate", "models-genesis", "scans", *QUICK, "--workers", "1", "--json"]
    said = type_in([*words, "--cache", tmp_path / "cache"])
    assert said.code == 0, said.err
    told = json.loads(said.out)
    assert 200 << 20 < told["measured"]["memory"] < 4 << 30
    assert told["forecast"]["seconds"] > 1
    monkeypatch.setattr(tempfile, "tempdir", None)
    refused = type_in(["estimate", "models-genesis", "pics", "--dims", "3"])
    assert refused.code == 2
    assert "can be used" in refused.err
    assert not list(tmp_path.glob("unlabeled-*"))


@pytest.mark.slow
def test_a_trial_that_the_system_ends_is_explained(desk: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)

    def kill(text: str) -> None:
        (found,) = process_of(tmp_path / "unlabeled-trial-")
        os.kill(int(found), signal.SIGKILL)

    with pytest.raises(unlabeled.errors.RunError, match=r"ended by signal 9.*memory"):
        unlabeled.estimate("models-genesis", "scans", say=kill, cache=tmp_path / "cache")
    assert not list(tmp_path.glob("unlabeled-*"))
    monkeypatch.setattr(tempfile, "tempdir", None)
