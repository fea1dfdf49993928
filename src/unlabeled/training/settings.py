"""How a run uses the machine: devices, processes, number format, what it writes and how often."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from lightning_fabric import Fabric

from unlabeled.errors import OptionError
from unlabeled.options import Between, Count, NonNegative, Options, Whole
from unlabeled.training.precision import Arithmetic, Precision, choose


@dataclass(frozen=True, kw_only=True)
class Settings(Options):
    """None of these changes what is learnt, but for rounding.

    Parameters
    ----------
    workers
        Processes that make samples ahead; without it, as many as the machine can spare.
    devices
        Devices a node; one process a device.
    nodes
        Machines that take part.
    accelerator
        Kind of device.
    precision
        Number format; ``auto`` picks what this device does well.
    resume
        Go on from the last checkpoint.
    log_every
        Steps between lines of the log.
    score_every
        Fewest steps between two scores on held-out subjects (at the end of an epoch).
    held_out_batches
        Batches of held-out samples that a score is the mean of; 0 for none.
    checkpoint_minutes
        Minutes between checkpoints.
    checkpoint_steps
        Steps between checkpoints, instead of minutes.
    quiet
        Print no progress.
    """

    workers: Whole | None = None
    devices: Count = 1
    nodes: Count = 1
    accelerator: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    precision: Precision = "auto"
    resume: bool = False
    log_every: Count = 10
    score_every: Count = 50
    held_out_batches: Annotated[int, Between(0)] = 2
    checkpoint_minutes: NonNegative = 5.0
    checkpoint_steps: Count | None = None
    quiet: bool = False


def device_kind(accelerator: str) -> str:
    """Name the kind of device that ``auto`` means here.

    Raises
    ------
    OptionError
        The machine lacks the device asked for.
    """
    has = {
        "cpu": True,
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
    }
    if accelerator == "auto":
        return next(kind for kind in ("cuda", "mps", "cpu") if has[kind])
    if not has[accelerator]:
        there = " or ".join(kind for kind, there in has.items() if there)
        raise OptionError(
            f"--accelerator {accelerator}: this machine has none, or this torch cannot use it",
            f"Give --accelerator {there}.",
        )
    return accelerator


def make_fabric(settings: Settings) -> tuple[Fabric, Arithmetic]:
    """Make the Fabric of a run and start its processes.

    With several devices the program is started anew for each (or by torchrun or Slurm), so this comes after everything
    that one process does for all, such as preparing scans.
    """
    kind = device_kind(settings.accelerator)
    arithmetic = choose(settings.precision, kind)
    several = settings.devices * settings.nodes > 1
    if kind == "cuda" and settings.devices > torch.cuda.device_count():
        raise OptionError(
            f"--devices {settings.devices}, but this machine has {torch.cuda.device_count()}",
            f"Give --devices {torch.cuda.device_count()} or fewer.",
        )
    # Fabric tells of its own doings (number format, backend) at the level of information
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    fabric = Fabric(
        accelerator=kind,
        devices=settings.devices,
        num_nodes=settings.nodes,
        strategy="ddp" if several else "auto",
        precision=arithmetic.fabric,
    )
    fabric.launch()
    return fabric, arithmetic


def choose_workers(settings: Settings, fabric: Fabric) -> int:
    """Choose how many processes make samples: none where the processor itself trains on few cores."""
    if settings.workers is not None:
        return settings.workers
    spare = (os.cpu_count() or 1) // max(1, settings.devices) - 1
    return max(0, min(8, spare)) if fabric.device.type != "cpu" or spare > 2 else 0


def is_first_process() -> bool:
    """Say whether this process is the one that writes, before and after the others are started."""
    names = ("RANK", "SLURM_PROCID", "LOCAL_RANK")
    return next((os.environ[name] for name in names if name in os.environ), "0") == "0"
