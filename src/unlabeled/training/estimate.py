"""Time, memory and disk of a pretraining before it is started: what `unlabeled estimate` and `unlabeled.estimate` do."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from unlabeled.data.walk import user_cache
from unlabeled.errors import OptionError
from unlabeled.methods._base import SharedOptions
from unlabeled.methods._registry import find
from unlabeled.training.excerpt import cores
from unlabeled.training.forecast import Forecast, forecast
from unlabeled.training.given import complete
from unlabeled.training.log import RunFolder
from unlabeled.training.pretrain import Job
from unlabeled.training.rehearsal import Measured, rehearse_aside
from unlabeled.training.settings import Settings

psutil: Any = import_module("psutil")  # it carries no types

TRIAL_SECONDS = 45.0  # for preparing scans and for steps; scoring and writing come on top
BUSY = 0.8  # processors that training has at least where no other program takes them
WAITS_MUCH = 0.1  # share of the time from which more workers are worth a word


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What this machine has [byte].

    Parameters
    ----------
    memory, free_memory
        In all, and what no program needs now.
    gpu_memory
        Of the first CUDA device; None without.
    free_store, free_run
        Room on the disk of the prepared scans, and on that of this folder.
    processors
        That this process may use.
    """

    memory: int
    free_memory: int
    gpu_memory: int | None
    free_store: int
    free_run: int
    processors: int


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What a run will take.

    Parameters
    ----------
    slug
        The method.
    measured
        What the trial measured.
    forecast
        What the whole run will take: time, and room on disk.
    machine
        What there is.
    warnings
        What the machine lacks, each with what to change.
    notes
        What the figures do not say.
    """

    slug: str
    measured: Measured
    forecast: Forecast
    machine: Machine
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def seconds(self) -> float:
        """Expected time of the whole run [s]."""
        return self.forecast.seconds

    @property
    def memory(self) -> int:
        """Most memory of the run with its workers [byte]."""
        return self.measured.memory

    @property
    def disk(self) -> int:
        """What the run adds to the disk: prepared scans and run folder [byte]."""
        return self.forecast.store_bytes + self.forecast.run_bytes

    def as_json(self) -> dict[str, Any]:
        """Give everything as plain values."""
        return asdict(self)


def estimate(
    slug: str,
    scans: Path | str,
    *,
    options: SharedOptions | None = None,
    settings: Settings | None = None,
    init: Path | str | None = None,
    cache: Path | str | None = None,
    trial_seconds: float = TRIAL_SECONDS,
    say: Callable[[str], None] | None = None,
    **values: Any,
) -> Estimate:
    """Estimate time, memory and disk of a pretraining, by trying it for a short while in a process of its own.

    The trial prepares few scans and takes few steps of every phase, all in a temporary folder that is gone afterwards;
    the prepared scans of `cache` are used, none are added.

    Parameters
    ----------
    slug, scans, options, settings, init, cache
        As in `pretrain`; options by name as well.
    trial_seconds
        Time for preparing few scans and for steps [s]; a trial takes a little longer.
    say
        Told what is being tried.

    Raises
    ------
    UnlabeledError
        What `pretrain` would refuse; or more than one device.
    """
    kind = find(slug)
    options, settings = complete(kind.options_class, options, settings, values)
    if not trial_seconds > 0:
        raise OptionError(f"--trial-seconds is {trial_seconds:g}", "Give a number above 0.")
    if settings.devices * settings.nodes > 1:
        raise OptionError(
            f"a trial runs on one device, not on {settings.devices * settings.nodes}",
            "Leave --devices and --nodes out: N devices take 1/N of the time of training steps at best.",
        )
    root = Path(cache) if cache else None
    job = Job(
        slug=slug,
        scans=scans,
        folder=RunFolder(Path()),
        options=options,
        settings=settings,
        init=init,
        cache=root,
    )
    measured = rehearse_aside(job, trial_seconds, say or (lambda text: None))
    expected = forecast(measured)
    machine = look_at_machine(root)
    return Estimate(
        slug=slug,
        measured=measured,
        forecast=expected,
        machine=machine,
        warnings=warn(measured, expected, machine, options),
        notes=note(options, measured, expected, machine),
    )


def look_at_machine(cache: Path | None) -> Machine:
    """Find out what this machine has."""
    memory = psutil.virtual_memory()
    on_cuda = torch.cuda.is_available()
    return Machine(
        memory=memory.total,
        free_memory=memory.available,
        gpu_memory=torch.cuda.get_device_properties(0).total_memory if on_cuda else None,
        free_store=_free(user_cache() if cache is None else cache),
        free_run=_free(Path()),
        processors=cores(),
    )


def warn(
    measured: Measured, expected: Forecast, machine: Machine, options: SharedOptions
) -> tuple[str, ...]:
    """Say what of the machine the run exceeds, and what to change."""
    smaller = []
    if options.batch_size > 1:
        smaller.append(f"--batch-size {options.batch_size // 2}")
    halved = " ".join(str(max(1, edge // 2)) for edge in options.patch_size)
    smaller += [f"--patch-size {halved}", "fewer --workers"]
    said = []
    if measured.memory > machine.memory:
        said.append(f"more memory than this machine has: give {', '.join(smaller)}")
    elif measured.memory > machine.free_memory:
        said.append(
            f"more memory than is free now: end other programs, or give {', '.join(smaller)}"
        )
    if measured.gpu_memory and machine.gpu_memory and measured.gpu_memory > machine.gpu_memory:
        said.append(f"more memory than the device has: give {', '.join(smaller[:-1])}")
    if expected.store_bytes > machine.free_store:
        said.append(
            "more room for prepared scans than their disk has: `unlabeled cache --prune` makes some, or "
            "give --cache on another disk"
        )
    if expected.peak_bytes > machine.free_run:
        said.append("more room for the run than this disk has: give an --out on another disk")
    if expected.wait_share > WAITS_MUCH:
        spare = max(1, machine.processors - 1)
        said.append(
            f"training would wait for data {100 * expected.wait_share:.0f} % of the time: give more "
            f"--workers, {spare} at most on this machine"
            if machine.processors > 1
            else f"training would wait for data {100 * expected.wait_share:.0f} % of the time"
        )
    return tuple(said)


def note(
    options: SharedOptions, measured: Measured, expected: Forecast, machine: Machine
) -> tuple[str, ...]:
    """Say what the figures do not."""
    said = []
    patience = getattr(options, "patience", None)
    if patience is not None:
        said.append(
            f"the run may end sooner: after {patience} scores without a better one (--patience)"
        )
    most = max(measured.phases, key=lambda phase: phase.steps * phase.step)
    if measured.gpu_memory is None and most.processors < BUSY * (1 - most.wait):
        said.append(
            f"other programs keep this machine busy: training had {most.processors:.2g} processors; "
            "alone it is faster"
        )
    if expected.store_bytes + expected.held_bytes > machine.memory:
        said.append("prepared scans exceed the memory; reading them from a slow disk is not in it")
    return tuple(said)


def _free(folder: Path) -> int:
    """Find the room on the disk of a folder that may not be there yet [byte]."""
    folder = folder.absolute()
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return shutil.disk_usage(os.fspath(folder)).free
