"""Saving what a method carries over, and loading weights with a report: never a silent partial match."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from unlabeled.errors import RunError
from unlabeled.nn.adaptation import adapt
from unlabeled.nn.checkpoints import FILE, HEADER, read_weights
from unlabeled.nn.encoders import Encoder, build_encoder

__all__ = [
    "FILE",
    "Adapted",
    "LoadReport",
    "load_encoder",
    "load_weights",
    "read_weights",
    "save_encoder",
]

#: Words that mark the slower copy in checkpoints that hold two networks; the learner is taken.
_COPIES = ("teacher", "momentum", "target", "ema", "_k.", "key", "critic")


@dataclass(frozen=True, slots=True)
class Adapted:
    """A tensor that was changed to fit: its name, both shapes, and by which rule."""

    name: str
    found: tuple[int, ...]
    needed: tuple[int, ...]
    rule: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadReport:
    """What became of every tensor when weights were loaded.

    Attributes
    ----------
    matched
        Names of tensors taken as they were.
    adapted
        Tensors that were changed to fit.
    missing
        Names that the network has and the file lacks, or holds in a shape that fits by no rule; they keep the values
        they had.  Each with the shapes.
    unexpected
        Names and shapes in the file that the network has no place for.
    share
        Part of the network's parameters that was loaded: the smaller of the shares of tensors and of numbers.
    prefix
        What stood before the names in the file.
    """

    matched: tuple[str, ...]
    adapted: tuple[Adapted, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    share: float
    prefix: str = ""

    def __str__(self) -> str:
        return (
            f"{len(self.matched)} tensors matched, {len(self.adapted)} adapted, {len(self.missing)} missing, "
            f"{len(self.unexpected)} unexpected ({self.share:.0%} of the network loaded)"
        )

    def lines(self, most: int = 5) -> list[str]:
        """Give the report as lines of text, at most so many names a kind."""
        told = [str(self)]
        changes = [f"{a.name} {_by(a.found)} -> {_by(a.needed)}: {a.rule}" for a in self.adapted]
        for kind, names in (
            ("adapted", changes),
            ("missing", self.missing),
            ("unexpected", self.unexpected),
        ):
            told.extend(f"{kind}: {name}" for name in names[:most])
            if len(names) > most:
                told.append(f"{kind}: {len(names) - most} more")
        return told


def save_encoder(
    path: Path | str, modules: Mapping[str, nn.Module], metadata: Mapping[str, Any]
) -> None:
    """Write what a method carries over as safetensors, atomically: the file is old, or new and whole.

    Parameters
    ----------
    path
        File to write; its folder is made.
    modules
        By part: ``encoder``, and ``decoder`` where the method carries it.  Tensors are named ``part.name``.
    metadata
        Values that JSON knows: ``slug``, ``spacing`` [mm] or None, ``orientation`` (``RAS``), ``intensity``
        (`IntensityRule.as_metadata`), ``patch_size`` [voxel], ``licence``, ``citation``, ``modality``.  ``version``
        is ours; for an `Encoder`, ``encoder``, ``dims`` and ``channels`` are filled in from it.

    Raises
    ------
    RunError
        When the file cannot be written, or the metadata holds what JSON does not know.
    """
    path = Path(path)
    encoder = modules.get("encoder")
    facts = {"version": version("unlabeled"), **metadata}
    if isinstance(encoder, Encoder):
        facts |= {"encoder": encoder.name, "dims": encoder.dims, "channels": encoder.in_channels}
    try:
        header = {"format": "pt", HEADER: json.dumps(facts, allow_nan=False)}
    except (TypeError, ValueError) as error:
        raise RunError(f"the metadata of {path} cannot be written as JSON ({error})") from error
    tensors = {
        f"{part}.{name}": tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for part, module in modules.items()
        for name, tensor in _state(module).items()
    }
    write_atomically(path, lambda draft: save_file(tensors, draft, metadata=header))


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Call `write` on a draft beside a file, then move the draft onto it.

    Raises
    ------
    RunError
        When the folder cannot be written or the disk is full; the old file, if any, stays.
    """
    draft = path.with_name(f".{secrets.token_hex(8)}.draft")  # short: the name may be at its limit
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(draft)
        with draft.open("rb") as stream:
            os.fsync(stream.fileno())
        draft.replace(path)
    except (OSError, SafetensorError, RuntimeError) as error:
        raise RunError(
            f"{path} cannot be written: {getattr(error, 'strerror', None) or error}",
            "Make room or choose another place with --out.",
        ) from error
    finally:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)


def load_encoder(path: Path | str) -> tuple[Encoder, dict[str, Any]]:
    """Rebuild the encoder of a run folder or of a file that `save_encoder` wrote, every tensor in place.

    Returns
    -------
    encoder
        In evaluation mode, on the CPU.
    metadata
        As it was saved.

    Raises
    ------
    RunError
        When the file does not say which encoder it holds, or a tensor is missing.
    """
    tensors, metadata = read_weights(path)
    try:
        name, dims, channels = (metadata[key] for key in ("encoder", "dims", "channels"))
    except KeyError as error:
        raise RunError(
            f"{path} does not say which encoder it holds",
            f"Give a run folder or its {FILE}; other weights are starting points: --init FILE.",
        ) from error
    encoder = build_encoder(str(name), dims=int(dims), in_channels=int(channels))
    report = load_weights(encoder, tensors, source=str(path), least=0.0)
    if report.missing or report.adapted:
        raise RunError(
            f"{path} does not hold every tensor of {encoder.name}: {report}",
            "It was written by another version; pretrain again, or start from it with --init.",
        )
    return encoder.eval(), metadata


def load_weights(
    module: nn.Module,
    weights: Path | str | Mapping[str, Tensor],
    *,
    entry: str | None = None,
    inflate: bool = True,
    least: float = 0.5,
    source: str | None = None,
) -> LoadReport:
    """Load weights into a network, adapt what can be adapted, report the rest, and refuse a poor match.

    Names may have anything before them (``encoder.``, ``backbone.``, ``student.encoder.``): the prefix under which
    most tensors fit is taken; of equals ``encoder.``, then the one that names no momentum copy, then the shortest.

    Parameters
    ----------
    module
        An encoder, a decoder or any network; changed only when nothing is refused.
    weights
        A path as for `read_weights`, or tensors by name.
    entry
        Name of the layer that depends on the image's channels; an encoder knows its own.
    inflate
        Whether 2D kernels may become 3D ones.
    least
        Smallest share of the network that must be loaded, 0 to 1.
    source
        How messages call the weights; without it, the path.

    Returns
    -------
    LoadReport
        Matched, adapted, missing and unexpected tensors.

    Raises
    ------
    RunError
        When the file cannot be read or less than `least` of the network was loaded.

    Notes
    -----
    A tensor of another shape is fitted by the rules of `unlabeled.nn.adaptation`: channels of the entry layer
    (summed, divided evenly), 2D kernels in 3D networks (repeated along the last axis, divided by its length) and
    positions of a transformer (interpolated).  All else of another shape counts as missing.
    """
    if isinstance(weights, Mapping):
        tensors, called = dict(weights), source or "the weights"
    else:
        tensors, called = read_weights(weights)[0], source or str(weights)
    own = _state(module)
    entry = entry or getattr(module, "entry", None)
    prefix = _prefix(own, tensors)
    found = {name[len(prefix) :]: t for name, t in tensors.items() if name.startswith(prefix)}
    outside = [name for name in tensors if not name.startswith(prefix)]
    fitted: dict[str, Tensor] = {}
    matched: list[str] = []
    adapted: list[Adapted] = []
    missing: list[str] = []
    for name, place in own.items():
        value = found.get(name)
        if value is None:
            missing.append(f"{name} {_by(place.shape)}")
            continue
        if value.shape == place.shape:
            matched.append(name)
            fitted[name] = value
            continue
        is_entry = entry is not None and name == f"{entry}.weight"
        changed = adapt(name, value, tuple(place.shape), entry=is_entry, inflate=inflate)
        if changed is None:
            missing.append(f"{name} {_by(place.shape)}, in the file {_by(value.shape)}")
        else:
            fitted[name], rule = changed
            adapted.append(Adapted(name, tuple(value.shape), tuple(place.shape), rule))
    report = LoadReport(
        matched=tuple(matched),
        adapted=tuple(adapted),
        missing=tuple(missing),
        unexpected=tuple(
            [f"{prefix}{name} {_by(t.shape)}" for name, t in found.items() if name not in own]
            + [f"{name} {_by(tensors[name].shape)}" for name in outside]
        ),
        share=_share(module, fitted),
        prefix=prefix,
    )
    if report.share < least:
        examples = ", ".join(report.missing[:3])
        raise RunError(
            f"{called} does not fit {getattr(module, 'name', type(module).__name__)}: {report}; missing are {examples}",
            "Give weights of the same network (--encoder says which is built), or --init scratch.",
        )
    with torch.no_grad():
        for name, value in fitted.items():
            own[name].copy_(value)
    return report


def _state(module: nn.Module) -> dict[str, Tensor]:
    """Give the module's own tensors by name, without the prefixes of compiled modules."""
    return {name.replace("_orig_mod.", ""): tensor for name, tensor in module.state_dict().items()}


def _prefix(own: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> str:
    """Choose what stands before the network's names in a file."""
    fits: Counter[str] = Counter()
    for name in tensors:
        start = 0
        while start >= 0:
            if name[start:] in own:
                fits[name[:start]] += 1
            dot = name.find(".", start)
            start = dot + 1 if dot >= 0 else -1
    if not fits:
        return ""

    def preference(prefix: str) -> tuple[int, bool, bool, int, str]:
        copy = any(word in prefix for word in _COPIES)
        return (-fits[prefix], prefix != "encoder.", copy, len(prefix), prefix)

    return min(fits, key=preference)


def _share(module: nn.Module, fitted: Mapping[str, Tensor]) -> float:
    sizes = {
        name.replace("_orig_mod.", ""): parameter.numel()
        for name, parameter in module.named_parameters()
    }
    if not sizes:
        return 1.0
    loaded = [size for name, size in sizes.items() if name in fitted]
    return min(len(loaded) / len(sizes), sum(loaded) / max(1, sum(sizes.values())))


def _by(shape: tuple[int, ...] | torch.Size) -> str:
    return "x".join(map(str, shape)) or "scalar"
