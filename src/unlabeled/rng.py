"""Random numbers that depend on what is drawn, not on when: one generator per (seed, path).

Every draw of a run comes from a generator derived from the run's seed and the place of the draw (phase, epoch,
index).  A resumed run, a run with other workers and a run on several devices therefore draw the same numbers.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Generator, device


def derive(seed: int, *path: int | str) -> int:
    """Derive a seed in [0, 2**63) from a seed and a place.

    >>> derive(0, "pretrain", 3) == derive(0, "pretrain", 3)
    True
    >>> derive(0, "pretrain", 3) == derive(0, "pretrain", 4)
    False
    """
    text = "\x1f".join([str(seed), *(f"{type(part).__name__}:{part}" for part in path)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def generator(seed: int, *path: int | str) -> Generator:
    """Make the generator of one place in a run."""
    import torch  # keeps listings and checks, which only need `derive`, fast to start

    return torch.Generator().manual_seed(derive(seed, *path))


def reseed(device: device, seed: int, *path: int | str) -> None:
    """Seed what networks draw from themselves, such as dropout, on one device."""
    import torch

    if (
        device.type == "cpu"
    ):  # `torch.manual_seed` also asks for every other kind of device: 0.1 ms a step
        torch.default_generator.manual_seed(derive(seed, *path))
    else:
        torch.manual_seed(derive(seed, *path))
