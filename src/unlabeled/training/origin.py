"""Where weights come from and what they were learnt on: what a later load must agree with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from unlabeled.data.scan import Source, say_modality
from unlabeled.data.slices import flat_axis
from unlabeled.data.store import Record
from unlabeled.errors import OptionError, RunError
from unlabeled.methods._base import Method, SharedOptions
from unlabeled.nn.agreement import require_agreement
from unlabeled.nn.weights import load_weights, read_weights


def weights_file(init: Path | str) -> Path:
    """Find the weights that ``--init RUN|FILE`` names.

    Raises
    ------
    RunError
        There are none.
    """
    path = Path(init)
    found = path / "encoder.safetensors" if path.is_dir() else path
    if not found.is_file():
        lacks = "is no finished run: it holds no encoder" if path.is_dir() else "does not exist"
        raise RunError(
            f"{path} {lacks}",
            "Give a finished run folder or a weights file with --init.",
        )
    return found


def name_modality(
    sources: Sequence[Source], asked: str, metadata: Mapping[str, Any]
) -> Sequence[Source]:
    """Name the modality of scans whose files do not say it, where it decides what their intensities mean.

    Raises
    ------
    OptionError
        The weights learnt on CT in HU, and whether these scans are CT is neither known nor said.
    """
    silent = sum(not source.modality for source in sources)
    if silent and not asked and "CT" in (metadata.get("modality") or []):
        raise OptionError(
            f"the weights learnt on CT in HU, and {silent} of {len(sources)} scans do not say what they are",
            "Give --modality CT if they are, else --modality MR or what they are.",
        )
    return say_modality(sources, asked)


def origin_facts(encoder: str, dims: int, records: Sequence[Record]) -> dict[str, Any]:
    """Say what weights must agree with: the network that is built and the scans at hand."""
    return {
        "encoder": encoder,
        "dims": dims,
        "channels": records[0].channels,
        "spacing": usual_spacing(records),
        "slice_spacing": usual_spacing(records, by_slice=True),
        "orientation": "RAS" if records[0].affine is not None else None,
        "intensity": records[0].rule.as_metadata(),
        "modality": sorted({record.modality for record in records}),
    }


def usual_spacing(records: Sequence[Record], by_slice: bool = False) -> list[float] | None:
    """Give the median voxel edge lengths of the scans that know them [mm].

    Parameters
    ----------
    records
        Scans.
    by_slice
        In the order in which a flat network meets them: edges of a pixel, then from slice to slice (`flat_axis`).  So a
        study whose stacks lie in several directions has a usual spacing as well.  Without it, along the axes of RAS.
    """
    known = [
        _across_last(record) if by_slice else record.spacing
        for record in records
        if record.spacing is not None
    ]
    if not known or len({len(spacing) for spacing in known}) > 1:
        return None
    return [float(sorted(axis)[len(axis) // 2]) for axis in zip(*known, strict=True)]


def _across_last(record: Record) -> tuple[float, ...]:
    across, spacing = flat_axis(record), record.spacing or ()
    return (*spacing[:across], *spacing[across + 1 :], *spacing[across : across + 1])


def load_init(
    method: Method, options: SharedOptions, records: Sequence[Record], init: Path | str
) -> list[str]:
    """Start the encoder from the weights of ``--init``; give warnings and the load report as lines.

    Raises
    ------
    RunError
        The weights disagree with the data, or too little of them fits.
    """
    tensors, metadata = read_weights(weights_file(init))
    facts = origin_facts(options.encoder, method.encoder.dims, records)
    warnings = require_agreement(metadata, facts)
    report = load_weights(method.encoder, encoder_tensors(tensors, metadata), source=str(init))
    return [*warnings, *report.lines()]


def encoder_tensors(tensors: dict[str, Tensor], metadata: Mapping[str, Any]) -> dict[str, Tensor]:
    """Leave out what a run of ours may carry beside its encoder: a decoder, a projection, a text encoder."""
    if "slug" not in metadata:
        return tensors
    return {name: tensor for name, tensor in tensors.items() if name.startswith("encoder.")}
