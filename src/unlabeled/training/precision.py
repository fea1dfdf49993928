"""What this device computes well: number format and memory layout, chosen by what it has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import nn

from unlabeled.errors import OptionError

Precision: TypeAlias = Literal["auto", "32", "bf16", "16"]


@dataclass(frozen=True)
class Arithmetic:
    """How a run computes.

    Parameters
    ----------
    fabric
        Fabric's name: ``32-true``, ``bf16-mixed`` or ``16-mixed``.
    channels_last
        Whether weights and batches lie channels-last in memory.
    why
        Reason in a few words, for `doctor` and `run.json`.
    """

    fabric: Literal["32-true", "bf16-mixed", "16-mixed"]
    channels_last: bool
    why: str


def choose(precision: Precision, device: str) -> Arithmetic:
    """Choose number format and layout for ``cpu``, ``cuda`` or ``mps``.

    A CPU computes bfloat16 faster than float32 for sure only where it has instructions for it (AVX512-BF16 or AMX).
    Elsewhere it is emulated: faster for some networks, slower for others, and a U-Net's loss became NaN, so ``auto``
    stays with float32 there.  ``benchmarks/precision.py`` measures it on this machine.

    Raises
    ------
    OptionError
        The device does not train in this format.
    """
    if precision == "auto":
        if device == "cuda" and torch.cuda.is_bf16_supported():
            return Arithmetic("bf16-mixed", True, "CUDA device with bfloat16")
        if device == "cpu" and has_bfloat16_instructions():
            return Arithmetic("bf16-mixed", True, "CPU with bfloat16 instructions")
        return Arithmetic("32-true", False, f"{device} without fast bfloat16")
    if precision == "16" and device == "cpu":
        raise OptionError(
            "--precision 16: a CPU trains in 32 bits or in bfloat16",
            "Give --precision bf16, 32 or auto.",
        )
    named = {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}[precision]
    return Arithmetic(named, precision != "32", "as asked")  # type: ignore[arg-type]


def has_bfloat16_instructions() -> bool:
    """Say whether this CPU multiplies bfloat16 in hardware."""
    probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, probe, lambda: False)() for probe in probes)


def lay_out(module: nn.Module, dims: int, arithmetic: Arithmetic) -> nn.Module:
    """Lay the weights channels-last where that is faster; values stay the same."""
    if not arithmetic.channels_last:
        return module
    layout = torch.channels_last_3d if dims == 3 else torch.channels_last
    return module.to(memory_format=layout)  # type: ignore[call-overload, no-any-return]
