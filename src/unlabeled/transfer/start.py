"""Where a task starts: fresh networks, or pretrained tensors that agree with the data and fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unlabeled.data.intensity import IntensityRule
from unlabeled.data.scan import Index
from unlabeled.data.store import Record
from unlabeled.errors import OptionError
from unlabeled.nn.agreement import require_agreement
from unlabeled.nn.encoders import build_encoder
from unlabeled.nn.weights import LoadReport, load_weights, read_weights
from unlabeled.rng import derive
from unlabeled.training.facts import fingerprint
from unlabeled.training.origin import encoder_tensors, origin_facts, usual_spacing, weights_file
from unlabeled.transfer.cohort import Cohort, fitting_patch
from unlabeled.transfer.registry import TASKS
from unlabeled.transfer.saved import rule_from
from unlabeled.transfer.task import FinetuneOptions, Given, Task, TaskName
from unlabeled.transfer.tasks import Classes

SCRATCH = "scratch"


@dataclass(frozen=True)
class Start:
    """What a task starts from: nothing, or tensors and what they say of themselves."""

    tensors: dict[str, Tensor] | None
    metadata: dict[str, Any]
    called: str

    @classmethod
    def read(cls, init: Path | str, like: Path | str | Mapping[str, Any] | None = None) -> Start:
        """Read ``--init RUN|FILE|scratch``; scratch takes network, patch and intensity rule from `like`.

        `like` names weights, or is what their metadata would say.
        """
        if str(init) == SCRATCH:
            if like is None or isinstance(like, Mapping):
                return cls(None, dict(like or {}), SCRATCH)
            return cls(None, read_weights(weights_file(like))[1], SCRATCH)
        if like is not None:
            raise OptionError("--like goes with --init scratch alone", "Leave --like out.")
        file = weights_file(init)
        tensors, metadata = read_weights(file)
        return cls(tensors, metadata, str(init))

    @property
    def encoder(self) -> dict[str, Tensor]:
        """Tensors of the encoder: without the decoder that a run of ours may carry beside it."""
        return encoder_tensors(self.tensors or {}, self.metadata)

    @property
    def rule(self) -> IntensityRule:
        """Rule that the weights were trained under."""
        return rule_from(self.metadata)


def build_task(
    task: TaskName,
    records: Sequence[Record],
    cohort: Cohort,
    index: Index,
    start: Start,
    options: FinetuneOptions,
    studies: Sequence[Record] = (),
) -> tuple[Task, tuple[str, ...], LoadReport | None]:
    """Build the networks: fresh ones depend on the seed alone, pretrained ones are loaded and reported.

    Parameters
    ----------
    task
        Which task.
    records
        All labelled scans: their classes count, whatever part they are in.
    cohort
        Who is trained on.
    index
        Where label names come from.
    start
        Weights.
    options
        With encoder and dims resolved.
    studies
        Scans without labels, for a task that learns from them as well.

    Returns
    -------
    tuple
        The task, notes, and the report of loading.

    Raises
    ------
    RunError
        The weights do not agree with the data, or too little of them fits.
    """
    notes: list[str] = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(options.seed, "weights"))
        dims = options.dims or records[0].dims
        encoder = build_encoder(options.encoder, dims=dims, in_channels=records[0].channels)
        patch = options.patch_size or fitting_patch(cohort.train, encoder)
        given = Given(
            options=replace(options, patch_size=_patch(tuple(patch), dims)),
            encoder=encoder,
            records=records,
            train=cohort.train,
            quiet=[record.key for record in cohort.val],
            label_names=index.label_names,
            root=index.root,
            tensors=start.tensors or {},
            metadata=start.metadata,
            studies=studies,
        )
        model = TASKS[task].build(given)
    if isinstance(model, Classes):
        missing = sorted({*model.classes} - {str(r.source.label) for r in cohort.train})
        if missing:
            notes.append(f"no training scan of class {', '.join(missing)}")
    if not cohort.val and model.gradients:
        notes.append("too few subjects to set any aside for validation: the last weights are kept")
    if start.tensors is None:
        return model, tuple(notes), None
    facts = origin_facts(options.encoder, dims, records)
    facts["channels"] = model.encoder.in_channels
    notes += require_agreement(start.metadata, facts)
    if not model.starts_pretrained:
        return model, tuple(notes), None
    report = load_weights(model.encoder, start.encoder, source=start.called)
    loaded = {f"encoder.{name}" for name in (*report.matched, *(a.name for a in report.adapted))}
    model.loaded = frozenset(loaded | model.load(given, notes))
    return model, tuple(notes), report


def describe_origin(start: Start, records: Sequence[Record], model: Task) -> dict[str, Any]:
    """Say what a trained task learnt from: what a later load must agree on, for its metadata."""
    known = start.metadata
    return {
        "slug": f"finetune-{model.kind}",
        "pretrained": known.get("slug"),
        "spacing": usual_spacing(records),
        "slice_spacing": usual_spacing(records, by_slice=True),
        "orientation": "RAS" if records[0].affine is not None else None,
        "intensity": records[0].rule.as_metadata(),
        "modality": sorted({record.modality for record in records}),
        "data": fingerprint(records),
        "licence": "of the scans it was learnt from",
        "citation": known.get("citation"),
    }


def _patch(patch: tuple[int, ...], dims: int) -> tuple[int, ...]:
    if len(patch) < dims:
        raise OptionError(
            f"--patch-size {' '.join(map(str, patch))} has {len(patch)} edges, the network {dims} axes",
            "Give one edge an axis.",
        )
    return patch[:dims]
