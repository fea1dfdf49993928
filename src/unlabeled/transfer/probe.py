"""What a frozen encoder already knows: a linear layer or the nearest neighbours on its features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeAlias, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unlabeled.data.index import index_scans
from unlabeled.data.store import Record, Store
from unlabeled.errors import DataError, OptionError, RunError
from unlabeled.nn.agreement import require_agreement
from unlabeled.nn.encoders import Encoder, build_encoder
from unlabeled.nn.weights import LoadReport, load_weights
from unlabeled.rng import derive
from unlabeled.training.origin import name_modality, origin_facts
from unlabeled.training.progress import Reporter
from unlabeled.training.selection import choose_dims, nothing_usable, same_channels
from unlabeled.training.settings import device_kind
from unlabeled.transfer.classifiers import NEIGHBOURS, PENALTIES, choose, fit_linear, fit_neighbours
from unlabeled.transfer.cohort import draw_cohort, fitting_patch, usable_sources
from unlabeled.transfer.evaluate import score_classes
from unlabeled.transfer.metrics import Interval
from unlabeled.transfer.start import Start
from unlabeled.transfer.task import FinetuneOptions
from unlabeled.transfer.windows import mean_over_windows

ProbeKind: TypeAlias = Literal["linear", "knn"]


@dataclass(frozen=True, kw_only=True)
class Probed:
    """What a probe found.

    Parameters
    ----------
    kind
        ``linear`` or ``knn``.
    metrics
        AUC, accuracy and balanced accuracy by part (``val``; ``test`` when asked for), with intervals over subjects.
    chance
        What knowing nothing gives: accuracy of always the commonest training class, by part; AUC 0.5.
    classes
        Names.
    subjects
        How many were fitted on, validated and set aside for the test.
    chosen
        Penalty or number of neighbours that cross-validation over training subjects chose.
    loaded
        What became of the pretrained tensors; None from scratch.
    notes
        What a person should know.
    quarantined
        Scans left out.
    """

    kind: ProbeKind
    metrics: dict[str, dict[str, Interval]]
    chance: dict[str, float]
    classes: tuple[str, ...]
    subjects: dict[str, int]
    chosen: float
    loaded: LoadReport | None
    notes: tuple[str, ...]
    quarantined: int


def probe(
    labelled: Path | str,
    *,
    init: Path | str,
    kind: ProbeKind = "linear",
    like: Path | str | None = None,
    label_fraction: float = 1.0,
    encoder: str = "",
    patch_size: Sequence[int] = (),
    spacing: Sequence[float] | None = None,
    modality: str = "",
    maps: int = 1,
    seed: int = 0,
    split_seed: int = 0,
    test: bool = False,
    workers: int = 0,
    accelerator: str = "auto",
    cache: Path | str | None = None,
    quiet: bool = False,
) -> Probed:
    """Classify scans by what a frozen encoder makes of them.

    Features are the encoder's coarsest maps, averaged over space and over the patches that cover a scan.

    Parameters
    ----------
    labelled
        Folder, data set or manifest with labels.
    init
        Run folder or weights file; ``scratch`` for the network as it is drawn, the bar to clear.
    kind
        ``linear``: logistic regression; ``knn``: votes of the nearest training scans by cosine.
    like
        From scratch: run folder or weights file whose network, patch and intensity rule are taken.
    label_fraction
        Part of the training subjects to fit on: a share up to 1, or a number of subjects above 1.
    encoder
        Network, where the weights do not say.
    patch_size
        Edges of a patch [voxel]; without it, the pretraining's.
    spacing
        Resample to these voxel edge lengths [mm].
    modality
        What scans are whose files do not say; CT means that intensities are in HU.
    maps
        How many of the coarsest maps are taken.
    seed, split_seed
        Draw the label fraction and folds; and the parts, where the data set does not say.
    test
        Whether to measure on the test subjects as well: once, when everything is decided.
    workers, accelerator, cache, quiet
        As in `predict`.

    Raises
    ------
    UnlabeledError
        Something that the person can mend: the data, the weights, an option.
    """
    if kind not in get_args(ProbeKind):
        raise OptionError(f"unknown probe {kind!r}", "Give --kind linear or --kind knn.")
    device_kind(accelerator)
    start = Start.read(init, like)
    root = Path(cache) if cache else None
    index = index_scans(labelled, labelled=True, cache=root)
    usable, without = usable_sources("classify", index)
    options = FinetuneOptions(
        encoder=encoder or start.metadata.get("encoder") or "",
        patch_size=tuple(patch_size),
        label_fraction=label_fraction,
        spacing=None if spacing is None else tuple(spacing),
        seed=seed,
        split_seed=split_seed,
    )
    bare = [replace(source, mask=None) for source in usable]
    store = Store(root, spacing=options.spacing)
    with Reporter("preparing", len(usable), quiet=quiet, unit="scans/s") as reporter:
        prepared = store.prepare(
            name_modality(bare, modality, start.metadata),
            rule=start.rule,
            workers=workers,
            progress=lambda done, of: reporter.show(done),
        )
    left_out = [*index.quarantine, *without, *prepared.quarantine]
    records, dims = choose_dims(prepared.records, start.metadata.get("dims"), (2, 3), left_out)
    records = same_channels(records, None, left_out)
    if not records:
        raise nothing_usable(index, left_out)
    classes = tuple(sorted({str(record.source.label) for record in records}))
    if len(classes) < 2:
        raise DataError(
            f"all labelled scans below {index.root} have the one label {classes[0]!r}",
            "A probe takes at least two classes: check the column `label`.",
        )
    cohort = draw_cohort(records, options)
    network, report, notes = _frozen(start, options, records, dims)
    network.to(device_kind(accelerator))
    size = tuple(options.patch_size or start.metadata.get("patch_size") or ())[:dims]
    size = size or fitting_patch(cohort.train, network)
    parts = {"train": cohort.train, "val": cohort.val, **({"test": cohort.test} if test else {})}
    everything = sum(len(part) for part in parts.values())
    features: dict[str, Tensor] = {}
    with Reporter("encoding", everything, quiet=quiet, unit="scans/s") as reporter:
        for name, part in parts.items():
            rows = []
            for record in part:
                rows.append(scan_features(network, record, size, maps=maps))
                reporter.show(reporter.done + 1)
            if rows:
                features[name] = torch.stack(rows)
    number = {name: place for place, name in enumerate(classes)}
    truths = {
        name: torch.tensor([number[str(record.source.label)] for record in part])
        for name, part in parts.items()
    }
    subjects = [record.subject for record in cohort.train]
    fit, candidates = (fit_linear, PENALTIES) if kind == "linear" else (fit_neighbours, NEIGHBOURS)
    chosen = choose(
        fit, candidates, features["train"], truths["train"], subjects, len(classes), seed=seed
    )
    answer = fit(features["train"], truths["train"], len(classes), chosen)
    commonest = int(torch.bincount(truths["train"]).argmax())
    measured, chance = {}, {}
    for name, part in parts.items():
        if name != "train" and part:
            truth: NDArray[np.int64] = truths[name].numpy()
            who = [record.subject for record in part]
            measured[name] = score_classes(answer(features[name]).numpy(), truth, who)
            chance[name] = float((truth == commonest).mean())
    return Probed(
        kind=kind,
        metrics=measured,
        chance=chance,
        classes=classes,
        subjects=cohort.counts(),
        chosen=float(chosen),
        loaded=report,
        notes=tuple(notes),
        quarantined=len(left_out),
    )


def _frozen(
    start: Start, options: FinetuneOptions, records: Sequence[Record], dims: int
) -> tuple[Encoder, LoadReport | None, list[str]]:
    """Build the encoder and load it, in evaluation mode."""
    name = options.encoder or ("unet" if start.tensors is None else "")
    if not name:
        raise RunError(
            f"{start.called} does not say which network its weights belong to",
            "Say it with --encoder; `unlabeled doctor` lists the names.",
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(options.seed, "weights"))
        network = build_encoder(name, dims=dims, in_channels=records[0].channels)
    if start.tensors is None:
        return network.eval(), None, []
    notes = require_agreement(start.metadata, origin_facts(name, dims, records))
    report = load_weights(network, start.encoder, source=start.called)
    return network.eval(), report, notes


def scan_features(
    network: Encoder, record: Record, size: Sequence[int], *, maps: int = 1
) -> Tensor:
    """Average the coarsest feature maps over space and over the patches that cover a scan: ``feature``, float32."""
    device = next(network.parameters()).device

    def pooled(image: Tensor) -> Tensor:
        return torch.cat([each.flatten(2).mean(2) for each in network(image)[-maps:]], 1)

    with torch.no_grad():
        return mean_over_windows(record, pooled, size, device=device)
