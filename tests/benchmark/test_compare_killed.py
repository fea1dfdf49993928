"""kill -9 in the middle of a run and between runs, Ctrl-C: what is missing runs the next time, and nothing else."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from studies import Study, process_at

from unlabeled import compare
from unlabeled.benchmark.compare import Compared
from unlabeled.benchmark.jobs import LOCKS, Here, run_plan
from unlabeled.benchmark.plan import Plan
from unlabeled.benchmark.plan_file import read_plan
from unlabeled.benchmark.tables import write_scores
from unlabeled.training.log import RunFolder

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="asks /proc who is at a run")
LONGER: dict[str, Any] = {
    "encoder": "resenc-tiny",
    "patch_size": (16, 16),
    "batch_size": 2,
    "pretrain_steps": 40,
    "steps": 40,
    "epochs": 2,
    "accelerator": "cpu",
    "checkpoint_steps": 4,
}


def compared(study: Study, out: Path, **other: Any) -> Compared:
    return compare(
        study.scans,
        study.labelled,
        out=out,
        methods=["models-genesis"],
        label_fractions=[2],
        seeds=1,
        cache=study.cache,
        **{**LONGER, **other},
    )


def begun(out: Path) -> tuple[str, int] | None:
    """Find a run that has a checkpoint and has not finished, and the process at it."""
    for lock in sorted((out / LOCKS).glob("*-*")):
        for run in (out / lock.name, out / "test" / lock.name):
            if (run / "checkpoints" / "last.safetensors").exists():
                holder = process_at(lock)
                if holder is not None and not RunFolder(run).read_facts().get("finished"):
                    return lock.name, holder
    return None


def alone(study: Study, plan: Plan, out: Path) -> bytes:
    """Run the plan without interruption in this process; give its scores."""
    outcome = run_plan(plan, out, cache=study.cache, engine=Here())
    return write_scores(out / "alone.csv", outcome).read_bytes()


def test_a_killed_worker_is_named_and_its_run_goes_on_the_next_time(
    study: Study, tmp_path: Path
) -> None:
    out, killed, over = tmp_path / "out", [], threading.Event()

    def kill() -> None:
        while not killed and not over.is_set():
            found = begun(out)
            if found is not None:
                os.kill(found[1], signal.SIGKILL)
                killed.append(found[0])
            time.sleep(0.005)

    watch = threading.Thread(target=kill)
    watch.start()
    try:
        first = compared(study, out)
    finally:
        over.set()
        watch.join()
    assert list(first.outcome.failed) == killed == ["scratch-2-seed0"]
    assert "killed by signal 9" in first.outcome.failed[killed[0]]
    assert first.exit_code == 1
    assert {row["method"] for row in first.outcome.rows} == {"models-genesis"}
    with (out / "failed.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert (row["run"], row["whose fault"]) == (killed[0], "ours or the machine's")
    assert "killed by signal 9" in (out / "table.md").read_text()

    second = compared(study, out)
    assert (second.exit_code, second.outcome.failed) == (0, {})
    assert RunFolder(out / "test" / killed[0]).read_facts()["resumed"]
    assert (out / "scores.csv").read_bytes() == alone(study, second.plan, tmp_path / "alone")


def typed(study: Study, out: Path) -> subprocess.Popen[str]:
    words = study.words(out, label_fractions="2", pretrain_steps="40", steps="40", epochs="2")
    return subprocess.Popen(
        [sys.executable, "-m", "unlabeled", *map(str, words), "--checkpoint-steps", "4"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )


def wait_until(found: Callable[[], Any], seconds: float = 240.0) -> Any:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        value = found()
        if value:
            return value
        time.sleep(0.005)
    raise TimeoutError


def ended(process: int) -> bool:
    """Whether a process is gone, or dead and not fetched yet."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_command_killed_in_a_run_and_between_runs_ends_with_the_same_figures(
    study: Study, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    process = typed(study, out)
    name, worker = wait_until(lambda: begun(out))
    process.kill()
    process.communicate()
    wait_until(lambda: ended(worker))  # it heard that its master has died, and has saved
    assert not RunFolder(out / "test" / name).read_facts()["finished"]

    process = typed(study, out)  # in the midst of it
    wait_until(lambda: RunFolder(out / "test" / name).read_facts().get("finished"))
    process.kill()  # between two runs
    process.communicate()
    last = typed(study, out)
    told = last.communicate()[1]
    assert last.returncode == 0, told
    assert RunFolder(out / "test" / name).read_facts()["resumed"]
    assert "done already" in told
    assert (out / "scores.csv").read_bytes() == alone(study, read_plan(out), tmp_path / "alone")


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_command_saves_and_says_how_to_go_on(
    study: Study, tmp_path: Path, number: int
) -> None:
    out = tmp_path / "out"
    process = typed(study, out)
    name, worker = wait_until(lambda: begun(out))
    process.send_signal(number)
    _, told = process.communicate(timeout=300)
    assert process.returncode == 130, told
    assert "every run has saved. Go on with:\n  unlabeled compare" in told
    assert ended(worker)
    facts = RunFolder(out / "test" / name).read_facts()
    assert (facts["finished"], facts["exit_reason"]) == (False, "interrupted")
    again = typed(study, out)
    assert again.communicate()[1]
    assert again.returncode == 0
