"""Reading tensors from any weights file, without running code from it: ours, safetensors, torch, nnU-Net."""

from __future__ import annotations

import json
import pickle
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from unlabeled.errors import RunError

#: Key of our metadata in the header of a safetensors file; its value is JSON.
HEADER = "unlabeled"
#: Name of the weights in a run folder.
FILE = "encoder.safetensors"

#: Where checkpoints keep their tensors: nnU-Net, Lightning and most others, timm, MAE, MONAI, DINO.
_NESTS = (
    "network_weights",
    "state_dict",
    "model",
    "model_state_dict",
    "model_state",
    "net",
    "network",
    "weights",
    "encoder",
    "teacher",
)
_WRAPPERS = re.compile(r"^(?:(?:module|_orig_mod)\.)+")
_INNER_WRAPPER = re.compile(r"(?<=\.)_orig_mod\.")


def read_weights(path: Path | str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read the tensors of a weights file, and the metadata where it is ours.

    Parameters
    ----------
    path
        A run folder, a safetensors file, or a torch checkpoint (``.pt``, ``.pth``, ``.ckpt``), nnU-Net's included.
        What it is decides its content, not its suffix.

    Returns
    -------
    tensors
        By name, on the CPU.  Names lose the prefixes of wrappers (``module.``, ``_orig_mod.``); second names of one
        tensor that nnU-Net's modules register (``all_modules``, ``decoder.encoder``) are left out.
    metadata
        What `save_encoder` was given; empty for other files.

    Raises
    ------
    RunError
        When the file is absent, damaged, holds no tensors, or could only be read by running code from it.
    """
    path = Path(path)
    if path.is_dir():
        if not (path / FILE).is_file():
            raise RunError(
                f"{path} holds no {FILE}",
                "Give a run folder whose pretraining has saved its encoder, or a weights file.",
            )
        path = path / FILE
    try:
        with path.open("rb") as stream:
            start = stream.read(9)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise RunError(
            f"{path} cannot be read: {reason}", "Give a run folder or a weights file."
        ) from error
    metadata: dict[str, Any] = {}
    if start[8:] == b"{" and int.from_bytes(start[:8], "little") < 2**27:
        tensors, metadata = _read_safetensors(path)
    else:
        tensors = _read_torch(path)
    if not tensors:
        raise RunError(f"{path} holds no tensors", "Give a run folder or a weights file.")
    return _plain_names(tensors), metadata


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    try:
        with safe_open(path, framework="pt", device="cpu") as stream:
            header = stream.metadata() or {}
            tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118
        metadata = json.loads(header[HEADER]) if HEADER in header else {}
    except (SafetensorError, ValueError, OSError) as error:
        raise RunError(
            f"{path} is a damaged safetensors file ({error})", "Copy it again, or pretrain again."
        ) from error
    return tensors, metadata


def _read_torch(path: Path) -> dict[str, Tensor]:
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(_number_types()):
            warnings.simplefilter("ignore")  # they tell of old protocols; what is unreadable raises
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "Unsupported" in str(error) or "GLOBAL" in str(error):
            raise RunError(
                f"{path} holds more than tensors and plain values, and reading it would run code from the file",
                "Open it where you trust it, and save its tensors alone: "
                "safetensors.torch.save_file(checkpoint['state_dict'], 'weights.safetensors').",
            ) from error
        raise _unknown(path) from error
    except Exception as error:  # a damaged file can break the unpickler anywhere
        raise _unknown(path) from error
    return _tensors_in(content)


def _unknown(path: Path) -> RunError:
    return RunError(
        f"{path} is no weights file: neither safetensors nor a torch checkpoint, or a damaged one",
        "Give a run folder, a .safetensors file or a .pt, .pth or .ckpt checkpoint.",
    )


def _number_types() -> list[Any]:
    """NumPy's scalars, which nnU-Net keeps in its log: data without code."""
    import numpy.dtypes

    kinds = [getattr(numpy.dtypes, name) for name in numpy.dtypes.__all__]
    scalar = np.float64(0).__reduce__()[0]
    return [scalar, (scalar, "numpy.core.multiarray.scalar"), np.dtype, *kinds]


def _tensors_in(content: Any) -> dict[str, Tensor]:
    """Find the mapping of tensors in a checkpoint, at most two levels down."""
    if not isinstance(content, Mapping):
        return {}
    for key in _NESTS:
        if isinstance(content.get(key), Mapping):
            inner = _tensors_in(content[key])
            if inner:
                return inner
    return {str(name): value for name, value in content.items() if isinstance(value, Tensor)}


def _plain_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    plain: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        plain[_INNER_WRAPPER.sub("", _WRAPPERS.sub("", name))] = tensor

    def doubled(name: str) -> bool:
        owner, mark, _ = name.partition(".all_modules.")
        if mark and f"{owner}.conv.weight" in plain:
            return True
        before, mark, after = name.rpartition("decoder.encoder.")
        return bool(mark) and f"{before}encoder.{after}" in plain

    return {name: tensor for name, tensor in plain.items() if not doubled(name)}
