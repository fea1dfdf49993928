"""What does a step of the optimiser cost?  PyTorch's plain loop over the weights against its fused kernel, on this CPU.

    python benchmarks/optimisers.py

Both move the weights of ResNet-18 and of the small residual encoder in 3D, in turn; CPU time, medians of the rounds.
"""

from __future__ import annotations

import statistics
import time

import torch
from _common import alternate, keep, median_ratio

from unlabeled.nn.encoders import build_encoder
from unlabeled.training.optimisers import fuse

KINDS = {
    "adam": lambda weights: torch.optim.Adam(weights, lr=1e-4),
    "adamw": lambda weights: torch.optim.AdamW(weights, lr=1e-4),
    "sgd with momentum": lambda weights: torch.optim.SGD(weights, lr=1e-4, momentum=0.9),
}
ENCODERS = {"resnet18": 2, "resenc-tiny": 3}


def main() -> None:
    figures = {}
    for encoder, dims in ENCODERS.items():
        weights = list(build_encoder(encoder, dims=dims, in_channels=1).parameters())
        for each in weights:
            each.grad = torch.randn_like(each)
        for name, make in KINDS.items():
            plain, fused = make(weights), fuse(make(weights))
            times = alternate({"plain": plain.step, "fused": fused.step}, 15, time.process_time)
            figures[f"{encoder} {dims}D, {name}"] = {
                "plain_ms": 1e3 * statistics.median(times["plain"]),
                "fused_ms": 1e3 * statistics.median(times["fused"]),
                "plain_over_fused": median_ratio(times["plain"], times["fused"]),
            }
    keep("optimisers", figures)


if __name__ == "__main__":
    main()
