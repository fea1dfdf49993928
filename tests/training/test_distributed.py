"""Two processes on the CPU (gloo) learn what one does, with the same global batch."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

SCRIPT = """
import sys
import torch
torch.set_num_threads(1)
from pathlib import Path
from toys import {kind}, TinyEncoder, ToyOptions
from unlabeled.data.index import index_scans
from unlabeled.data.intensity import IntensityRule
from unlabeled.data.store import Store
from unlabeled.rng import derive
from unlabeled.training.engine import train
from unlabeled.training.log import RunFolder
from unlabeled.training.settings import Settings, is_first_process, make_fabric

scans, cache, out, devices = Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4])
records = Store(cache).prepare(index_scans(scans).sources, rule=IntensityRule()).records
options = ToyOptions(batch_size=5, steps=4, epochs=50)
torch.manual_seed(derive(0, "weights"))
encoder = TinyEncoder()
encoder.drop.p = 0.0          # what a process draws inside a step is its own
encoder.norm = torch.nn.Identity()  # batch statistics are of a process's own part
method = {kind}(options, encoder)
settings = Settings(devices=devices, accelerator="cpu", quiet=True, log_every=1, score_every=1)
folder = RunFolder(out)
if is_first_process():
    folder.create(resume=False)
fabric, arithmetic = make_fabric(settings)
train(method, records[2:], records[:2], settings, folder, fabric=fabric, arithmetic=arithmetic)
"""


@pytest.mark.parametrize("kind", ["Toy", "Opponents"])
def test_two_processes_agree_with_one(tmp_path, tiny_scans, kind):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(kind=kind))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    here = str(Path(__file__).parent)
    environment = {
        **os.environ,
        "PYTHONPATH": here,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
    }
    found = {}
    for devices in (1, 2):
        out = tmp_path / str(devices)
        arguments = [str(tiny_scans), str(tmp_path / "cache"), str(out), str(devices)]
        done = subprocess.run(
            [sys.executable, str(script), *arguments],
            env=environment,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        found[devices] = load_file(out / "checkpoints" / "last.safetensors")
    assert found[1].keys() == found[2].keys()
    for name, one in found[1].items():
        torch.testing.assert_close(one, found[2][name], rtol=1e-4, atol=1e-6)
