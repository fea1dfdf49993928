"""Facts of a run: versions, code state, device, data fingerprint, seeds."""

from __future__ import annotations

import hashlib
import platform
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric

from unlabeled.data.store import Record
from unlabeled.methods._base import SharedOptions
from unlabeled.training.precision import Arithmetic

PACKAGES = ("torch", "monai", "lightning-fabric", "numpy", "numba", "blosc2", "nibabel", "pydicom")


def gather_facts(
    *,
    command: str,
    records: Sequence[Record],
    options: SharedOptions,
    fabric: Fabric,
    arithmetic: Arithmetic,
    earlier: Mapping[str, Any],
) -> dict[str, Any]:
    """Collect what ``run.json`` says when a run starts or goes on."""
    return {
        "command": command,
        "unlabeled": _version("unlabeled"),
        "git": git_state(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "accelerator": fabric.device.type,
        "device": device_name(fabric.device),
        "devices": fabric.world_size,
        "precision": arithmetic.fabric,
        "precision_why": arithmetic.why,
        "threads": torch.get_num_threads(),
        "data": fingerprint(records),
        "listing": listing(records),
        "subjects": len({record.subject for record in records}),
        "seed": options.seed,
        "started": earlier.get("started", datetime.now(UTC).isoformat(timespec="seconds")),
        "resumed": [*earlier.get("resumed", []), *([_now()] if earlier else [])],
        "seconds": earlier.get("seconds", 0.0),
        "finished": False,
        "exit_reason": "running",
    }


def fingerprint(records: Sequence[Record]) -> str:
    """Name the data of a run by its prepared scans, whatever their order."""
    digest = hashlib.blake2b(digest_size=8)
    for key in sorted(record.key for record in records):
        digest.update(key.encode())
    return digest.hexdigest()


def listing(records: Sequence[Record]) -> str:
    """Name the data of a run by the names and shapes of its scans: the same wherever the folder lies."""
    digest = hashlib.blake2b(digest_size=8)
    for record in sorted(records, key=lambda record: record.source.name):
        digest.update(f"{record.source.name}\0{record.channels}\0{record.space}\0".encode())
    return digest.hexdigest()


def device_name(device: torch.device) -> str:
    """Name the processor that trains."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "mps":
        return f"Apple {platform.machine()}"
    return cpu_name()


def cpu_name() -> str:
    """Name this machine's processor, as the operating system tells."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def git_state() -> str:
    """Name the commit of a source checkout, with ``+`` where files differ; empty for an installed package."""
    folder = Path(__file__).resolve().parent
    try:
        told = subprocess.run(
            ["git", "describe", "--always", "--dirty=+", "--abbrev=12"],  # noqa: S607
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return told.stdout.strip()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""
