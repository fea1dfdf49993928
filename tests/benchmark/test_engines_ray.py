"""A comparison on a Ray cluster of two machines, one of which is killed while it works, comes to the same figures."""

from __future__ import annotations

import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from desk import type_in
from studies import Study, process_at

from unlabeled import compare
from unlabeled.benchmark.jobs import LOCKS, Here, run_plan
from unlabeled.benchmark.tables import write_scores
from unlabeled.training.log import RunFolder


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A head that works on nothing and two machines of one core each: processes of this machine, on loopback alone."""
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # it then binds to 127.0.0.1
    from ray.cluster_utils import Cluster

    short = tempfile.mkdtemp(prefix="ray-")  # names of sockets may have 107 characters
    small = {"object_store_memory": 80_000_000, "include_dashboard": False}
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "temp_dir": short, **small})
    try:
        for _ in range(2):
            made.add_node(num_cpus=1, **small)
        assert made.address.startswith("127.0.0.1:")
        yield made
    finally:
        made.shutdown()
        shutil.rmtree(short, ignore_errors=True)


def parent_of(process: int) -> int:
    return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])


def kill_a_machine_at_work(
    cluster: Any, out: Path, killed: list[str], until: threading.Event
) -> None:
    """Wait for a run that has a checkpoint and has not finished, and kill the machine that it is on."""
    machines = {
        machine.all_processes["raylet"][0].process.pid: machine for machine in cluster.worker_nodes
    }
    while not killed and not until.is_set():
        for lock in sorted((out / LOCKS).glob("*-*")):
            for run in (out / lock.name, out / "test" / lock.name):
                begun = (run / "checkpoints" / "last.safetensors").exists()
                holder = process_at(lock) if begun else None
                if holder is not None and not RunFolder(run).read_facts().get("finished"):
                    machine = machines.get(parent_of(holder))
                    if machine is not None:
                        cluster.remove_node(machine, allow_graceful=False)
                        killed.append(lock.name)
                        return
        time.sleep(0.02)


@pytest.mark.timeout(900)
@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc which machine a run is on")
def test_a_machine_that_dies_changes_nothing(study: Study, cluster: Any, tmp_path: Path) -> None:
    out, killed, over = tmp_path / "out", [], threading.Event()
    watch = threading.Thread(target=kill_a_machine_at_work, args=(cluster, out, killed, over))
    watch.start()
    lines: list[str] = []
    try:
        done = compare(
            study.scans,
            study.labelled,
            out=out,
            methods=["models-genesis"],
            label_fractions=[2],
            seeds=1,
            engine="ray",
            address=cluster.address,
            cache=study.cache,
            say=lines.append,
            encoder="resenc-tiny",
            patch_size=(16, 16),
            batch_size=2,
            pretrain_steps=60,
            steps=60,
            epochs=2,
            accelerator="cpu",
            checkpoint_steps=5,
        )
    finally:
        over.set()
        watch.join()
    assert killed
    assert done.outcome.failed == {}
    assert done.exit_code == 0
    run = next(run for run in (out / killed[0], out / "test" / killed[0]) if run.exists())
    assert RunFolder(run).read_facts()["resumed"]
    assert any(line.startswith("[3/3]") for line in lines)

    torch.set_num_threads(1)
    alone = run_plan(done.plan, tmp_path / "alone", cache=study.cache, engine=Here())
    here = write_scores(tmp_path / "alone.csv", alone)
    assert (out / "scores.csv").read_bytes() == here.read_bytes()


def test_ray_is_named_with_its_installation_where_it_is_missing(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    said = type_in(study.words(tmp_path / "new", engine="ray"))
    assert said.code == 2
    assert "pip install 'unlabeled[ray]'" in said.err
    assert not (tmp_path / "new").exists()
