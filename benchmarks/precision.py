"""Which number format and memory layout is fast on this machine, and does the loss curve stay?

    python benchmarks/precision.py [--compile]

One training step (forward, backward, SGD) of real 3D and 2D networks on a fixed batch, formats in turn, medians; and the loss of
10 steps of restoring a fixed batch in each format, relative to float32.
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Callable
from typing import Any

import torch
from _common import alternate, keep, median_ratio
from torch import nn

from unlabeled.nn.decoders import build_decoder
from unlabeled.nn.encoders import build_encoder

NETWORKS = {
    "unet 3D": ("unet", (1, 1, 16, 16, 16)),
    "resenc-tiny 3D": ("resenc-tiny", (1, 1, 24, 24, 24)),
    "resnet18 2D": ("resnet18", (2, 1, 96, 96)),
}


def step_of(
    name: str, shape: tuple[int, ...], layout: bool, half: bool, compiled: bool
) -> Callable[[], Any]:
    torch.manual_seed(0)
    dims = len(shape) - 2
    encoder = build_encoder(name, dims=dims)
    decoder = build_decoder(encoder, out_channels=1)
    network: Any = nn.ModuleList([encoder, decoder])
    image = torch.rand(shape)
    if layout:
        form = torch.channels_last_3d if dims == 3 else torch.channels_last
        network, image = network.to(memory_format=form), image.contiguous(memory_format=form)
    optimiser = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)

    def restore(picture: torch.Tensor) -> torch.Tensor:
        return decoder(encoder(picture))

    run = torch.compile(restore, dynamic=False) if compiled else restore

    def step() -> float:
        optimiser.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            loss = (run(image) - image).float().square().mean()
        loss.backward()
        optimiser.step()
        return float(loss.detach())

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--compile", action="store_true")
    asked = parser.parse_args()
    forms = {
        "float32": (False, False, False),
        "float32 channels-last": (True, False, False),
        "bfloat16": (False, True, False),
        "bfloat16 channels-last": (True, True, False),
    }
    if asked.compile:
        forms["float32 compiled"] = (False, False, True)
    figures = {}
    for label, (name, shape) in NETWORKS.items():
        steps = {form: step_of(name, shape, *how) for form, how in forms.items()}
        seconds = alternate(steps, asked.rounds)
        losses = {
            form: [step() for _ in range(10)][-1]
            for form, step in ((form, step_of(name, shape, *how)) for form, how in forms.items())
        }
        figures[label] = {
            form: {
                "median_step_s": statistics.median(times),
                "speed_up_over_float32": median_ratio(seconds["float32"], times),
                "loss_after_10_steps": losses[form] if math.isfinite(losses[form]) else None,
            }
            for form, times in seconds.items()
        }
    keep("precision", figures)


if __name__ == "__main__":
    main()
