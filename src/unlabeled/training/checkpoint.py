"""Checkpoints: the complete state of a run in one file, written atomically, read without running code from it.

A checkpoint is a safetensors file: tensors under ``method.*`` (weights and buffers) and ``optimiser.NAME.*`` (their state),
everything else as JSON in the file's metadata.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from unlabeled.errors import RunError

FORMAT = 1


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint file holds, before it is put back.

    Parameters
    ----------
    tensors
        By flat name.
    state
        The JSON part: ``format``, ``clock``, ``optimisers`` and what the engine added.
    """

    tensors: dict[str, Tensor]
    state: dict[str, Any] = field(default_factory=dict)


def write_checkpoint(
    path: Path,
    method: nn.Module,
    optimisers: Mapping[str, torch.optim.Optimizer],
    state: Mapping[str, Any],
) -> None:
    """Write the complete state; whoever interrupts leaves the file as it was or as it shall be.

    Parameters
    ----------
    path
        ``checkpoints/last.safetensors``, say; its folder must exist.
    method
        Its whole ``state_dict`` is kept.
    optimisers
        By name.
    state
        JSON values: the clock, the best score, ...

    Raises
    ------
    RunError
        The disk is full or not writable.
    """
    tensors: dict[str, Tensor] = {}
    shared: dict[int, str] = {}
    aliases: dict[str, str] = {}
    for name, tensor in method.state_dict().items():
        first = shared.setdefault(_identity(tensor), name)
        if first == name:
            tensors[f"method.{name}"] = _plain(tensor)
        else:
            aliases[name] = first
    groups: dict[str, Any] = {}
    for name, optimiser in optimisers.items():
        packed = optimiser.state_dict()
        scalars: dict[str, dict[str, Any]] = {}
        for index, entries in packed["state"].items():
            for key, value in entries.items():
                if isinstance(value, Tensor):
                    tensors[f"optimiser.{name}.{index}.{key}"] = _plain(value)
                else:
                    scalars.setdefault(str(index), {})[key] = value
        groups[name] = {"groups": packed["param_groups"], "scalars": scalars}
    whole = {"format": FORMAT, "aliases": aliases, "optimisers": groups, **state}
    write_atomically(path, save(tensors, {"unlabeled": json.dumps(whole)}))


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint file.

    Raises
    ------
    RunError
        The file is absent, damaged, or of another version.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = (file.metadata() or {}).get("unlabeled")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise RunError(f"{path} does not exist", "Start without --resume.") from None
    except (SafetensorError, OSError) as fault:
        raise RunError(
            f"{path} is damaged ({fault})", "Start anew with another --out, or restore the file."
        ) from None
    if metadata is None:
        raise RunError(f"{path} is no checkpoint of Unlabeled", "Give it to --init instead.")
    state = json.loads(metadata)
    if state["format"] != FORMAT:
        raise RunError(
            f"{path} has checkpoint format {state['format']}, this version reads {FORMAT}",
            "Resume with the version named in run.json.",
        )
    return Checkpoint(tensors, state)


def restore_method(checkpoint: Checkpoint, method: nn.Module) -> None:
    """Put the weights and buffers back, every one of them.

    Raises
    ------
    RunError
        The checkpoint is of another network.
    """
    prefix = "method."
    found = {
        name.removeprefix(prefix): tensor
        for name, tensor in checkpoint.tensors.items()
        if name.startswith(prefix)
    }
    for name, first in checkpoint.state["aliases"].items():
        found[name] = found[first]
    try:
        method.load_state_dict(found, strict=True)
    except RuntimeError as fault:
        first_line = str(fault).splitlines()[0]
        raise RunError(
            f"the checkpoint is of another network ({first_line})",
            "Resume with the options of the first start (options.toml in the run folder).",
        ) from None


def restore_optimisers(
    checkpoint: Checkpoint, optimisers: Mapping[str, torch.optim.Optimizer]
) -> None:
    """Put the state of every optimiser back."""
    for name, optimiser in optimisers.items():
        packed = checkpoint.state["optimisers"][name]
        states: dict[int, dict[str, Any]] = {
            int(index): dict(entries) for index, entries in packed["scalars"].items()
        }
        prefix = f"optimiser.{name}."
        for full, tensor in checkpoint.tensors.items():
            if full.startswith(prefix):
                index, key = full.removeprefix(prefix).split(".", 1)
                states.setdefault(int(index), {})[key] = tensor
        optimiser.load_state_dict({"state": states, "param_groups": packed["groups"]})


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that it is either the old or the new one, whatever happens in between.

    Raises
    ------
    RunError
        The disk is full or not writable; the old file stands.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with beside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError as fault:
        beside.unlink(missing_ok=True)
        raise RunError(
            f"cannot write {path} ({fault.strerror or fault})",
            "Free some space or give another --out; what was written before stands.",
        ) from None


def _plain(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().contiguous()


def _identity(tensor: Tensor) -> int:
    """Name the storage of a tensor, so that shared weights are written once; empty ones are their own."""
    return tensor.data_ptr() if tensor.numel() else id(tensor)
