"""kill -9 at random moments, then --resume: the same weights, bit for bit, as a run that nobody killed."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file

from unlabeled.demo.phantoms import write_patients

OPTIONS = [
    *("--steps", "40", "--batch-size", "2", "--patch-size", "16", "16", "16"),
    *("--encoder", "resenc-tiny", "--shuffle-windows", "50", "--lr", "0.1"),
    *("--checkpoint-steps", "3", "--log-every", "1", "--score-every", "10", "--accelerator", "cpu"),
]


def command(scans, out, cache, *more):
    words = ["pretrain", "models-genesis", str(scans), "--out", str(out), "--cache", str(cache)]
    return [sys.executable, "-m", "unlabeled", *words, *OPTIONS, "--quiet", *more]


def weights(out):
    return load_file(out / "encoder.safetensors")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_killed_at_twenty_random_moments_and_resumed_gives_the_same_weights(tmp_path):
    scans, cache = tmp_path / "scans", tmp_path / "cache"
    write_patients(scans, patients=8, shape=(20, 20, 20))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    began = time.monotonic()
    subprocess.run(command(scans, tmp_path / "whole", cache), env=environment, check=True)
    length = time.monotonic() - began
    moments = random.Random(0)
    out = tmp_path / "killed"
    kills = finished = 0
    started = False
    while kills < 20:
        more = ("--resume",) if started else ()
        process = subprocess.Popen(command(scans, out, cache, *more), env=environment)
        try:
            process.wait(timeout=moments.uniform(0.3, 1.0) * length)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            kills += 1
            started = started or (out / "run.json").exists()
            continue
        assert process.returncode == 0
        expected, found = weights(tmp_path / "whole"), weights(out)
        assert all(torch.equal(expected[name], found[name]) for name in expected)
        finished += 1
        out, started = tmp_path / f"killed{finished}", False
    if started:
        subprocess.run(command(scans, out, cache, "--resume"), env=environment, check=True)
        expected, found = weights(tmp_path / "whole"), weights(out)
        assert expected.keys() == found.keys()
        assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_a_run_killed_once_resumes_from_the_command_line(tmp_path):
    scans, cache = tmp_path / "scans", tmp_path / "cache"
    write_patients(scans, patients=6, shape=(20, 20, 20))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(command(scans, tmp_path / "whole", cache), env=environment, check=True)
    out = tmp_path / "killed"
    process = subprocess.Popen(command(scans, out, cache), env=environment)
    checkpoint = out / "checkpoints" / "last.safetensors"
    while not checkpoint.exists() and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (out / "encoder.safetensors").exists()
    subprocess.run(command(scans, out, cache, "--resume"), env=environment, check=True)
    expected, found = weights(tmp_path / "whole"), weights(out)
    assert all(torch.equal(expected[name], found[name]) for name in expected)
