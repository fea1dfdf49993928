"""How much do OpenMP threads that wait by spinning cost, alone and beside a busy program?

    python benchmarks/spinning.py

Each figure is a process of its own, as the setting is read once, when the OpenMP runtime starts: median seconds of a training step of a
small 3D network, with the runtime's default spin and with the one that the command line sets, in turn.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from typing import Any

from _common import keep

from unlabeled.cli.app import SPIN

STEP = """
import statistics, time, torch
from unlabeled.nn.decoders import build_decoder
from unlabeled.nn.encoders import build_encoder
torch.manual_seed(0)
encoder = build_encoder("resenc-tiny", dims=3)
decoder = build_decoder(encoder, out_channels=1)
image = torch.rand(2, 1, 24, 24, 24)
times = []
for _ in range(12):
    began = time.perf_counter()
    (decoder(encoder(image)) - image).square().mean().backward()
    times.append(time.perf_counter() - began)
print(statistics.median(times[2:]))
"""
NEIGHBOUR = "while True: pass"


def seconds(setting: dict[str, str]) -> float:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "GOMP_"))}
    done = subprocess.run(
        [sys.executable, "-c", STEP],
        env={**environment, **setting},
        capture_output=True,
        text=True,
        check=True,
    )
    return float(done.stdout)


def main() -> None:
    figures: dict[str, Any] = {}
    for label, busy in (("alone", 0), ("beside a busy program", 1)):
        neighbours = [subprocess.Popen([sys.executable, "-c", NEIGHBOUR]) for _ in range(busy)]
        try:
            found: dict[str, list[float]] = {"default": [], "shortened": []}
            for _ in range(3):
                found["default"].append(seconds({}))
                found["shortened"].append(seconds(dict([SPIN])))
        finally:
            for neighbour in neighbours:
                neighbour.kill()
        figures[label] = {name: statistics.median(times) for name, times in found.items()}
        figures[label]["default_over_shortened"] = statistics.median(
            a / b for a, b in zip(found["default"], found["shortened"], strict=True)
        )
    keep("spinning", figures)


if __name__ == "__main__":
    main()
