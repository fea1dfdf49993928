"""Pretraining from a folder of scans to an encoder: what `unlabeled pretrain` and `unlabeled.pretrain` do."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from unlabeled import catalogue
from unlabeled.data.index import index_scans
from unlabeled.data.scan import Index, Quarantined, Source
from unlabeled.data.splits import split_subjects
from unlabeled.data.store import Record, Store
from unlabeled.errors import DataError, OptionError, RunError
from unlabeled.methods._base import Method, Needs, SharedOptions
from unlabeled.methods._registry import find
from unlabeled.nn.encoders import build_encoder
from unlabeled.nn.weights import load_weights, read_weights, save_encoder
from unlabeled.rng import derive
from unlabeled.training.checkpoint import read_checkpoint, restore_method
from unlabeled.training.engine import train
from unlabeled.training.facts import fingerprint, gather_facts
from unlabeled.training.log import RunFolder
from unlabeled.training.progress import Reporter
from unlabeled.training.settings import Settings, is_first_process, make_fabric
from unlabeled.training.state import Result

HELD_OUT_SHARE = 0.1


@dataclass(frozen=True, kw_only=True)
class Pretrained:
    """What a pretraining left behind.

    Parameters
    ----------
    out
        The run folder.
    encoder
        Weights that are carried to a task.
    result
        Steps, scores, time.
    scans, quarantined
        How many were used and left out.
    """

    out: Path
    encoder: Path
    result: Result
    scans: int
    quarantined: int


def pretrain(
    slug: str,
    scans: Path | str,
    out: Path | str,
    *,
    options: SharedOptions | None = None,
    settings: Settings | None = None,
    sources: Mapping[str, str] | None = None,
    init: Path | str | None = None,
    cache: Path | str | None = None,
    **values: Any,
) -> Pretrained:
    """Pretrain an encoder on unlabelled scans.

    Parameters
    ----------
    slug
        Name of the method.
    scans
        Folder, data set or manifest.
    out
        Run folder to make, or to go on with (``resume=True``).
    options, settings
        Ready-made; or give their values by name: ``epochs=3, workers=2``.
    sources
        Where each option's value came from, for ``options.toml``.
    init
        Run folder or weights file to start from.
    cache
        Folder of prepared scans; the user's cache folder when absent.

    Raises
    ------
    UnlabeledError
        Something that the person can mend: an option, the data, the run folder.
    """
    kind = find(slug)
    options, settings = _complete(kind, options, settings, values)
    folder = RunFolder(Path(out))
    again = f"unlabeled pretrain {slug} {scans} --out {out} --resume"
    if settings.resume:
        options = _first_options(kind, options, sources or {}, folder)
    if is_first_process():
        folder.create(resume=settings.resume, command=again)
    root = Path(cache) if cache else None
    index = index_scans(scans, cache=root)
    refuse_unmet(slug, kind.needs, index)
    prepared, dims, left_out = _prepare(kind, options, index, settings, root)
    options = fit_dims(options, dims)
    training, held_out = split_records(prepared, options.seed)
    method = build_method(kind, options, dims=dims, channels=training[0].channels, init=init)
    fabric, arithmetic = make_fabric(settings)
    facts = gather_facts(
        command=f"pretrain {slug}",
        records=prepared,
        options=options,
        fabric=fabric,
        arithmetic=arithmetic,
        earlier=folder.read_facts() if settings.resume else {},
    )
    if is_first_process():
        folder.write_options(_named(options, settings), sources or {})
        folder.write_quarantine(left_out)
        folder.write_facts({**facts, "scans": len(prepared), "quarantined": len(left_out)})
    began = time.time()
    result = train(
        method,
        training,
        held_out,
        settings,
        folder,
        fabric=fabric,
        arithmetic=arithmetic,
        title=slug,
    )
    if is_first_process():
        if result.exit_reason != "interrupted":
            _keep_best(method, folder)
        write_encoder(method, slug, options, training, folder)
        facts |= {
            "seconds": facts.get("seconds", 0.0) + time.time() - began,
            "finished": result.exit_reason != "interrupted",
            "exit_reason": result.exit_reason,
            "steps": result.steps,
            "score": result.score,
            "wait_share": result.wait_share,
        }
        folder.write_facts({**facts, "scans": len(prepared), "quarantined": len(left_out)})
    return Pretrained(
        out=folder.path,
        encoder=folder.encoder,
        result=result,
        scans=len(prepared),
        quarantined=len(left_out),
    )


def build_method(
    kind: type[Method],
    options: SharedOptions,
    *,
    dims: int,
    channels: int,
    init: Path | str | None = None,
) -> Method:
    """Build a method with its networks; the weights depend on the seed alone, or come from `init`."""
    torch.manual_seed(derive(options.seed, "weights"))
    encoder = build_encoder(options.encoder, dims=dims, in_channels=channels)
    method = kind(options, encoder)
    if init is not None:
        tensors, _ = read_weights(weights_file(init))
        load_weights(method.encoder, tensors)
    return method


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
        raise RunError(
            f"{found} does not exist",
            "Give a finished run folder or a weights file with --init.",
        )
    return found


def refuse_unmet(slug: str, needs: Needs, index: Index) -> None:
    """Refuse before training what a method cannot learn from, naming what is missing.

    Raises
    ------
    DataError
        The scans lack something that the method needs.
    """
    faults = []
    total = len(index.sources)
    columns = ("report", "level", "boxes", "time", "mask", "label", "target")
    for column in needs.metadata:
        if column in columns:
            without = sum(getattr(source, column) is None for source in index.sources)
            if without:
                faults.append(f"{without} of {total} scans have no {column}")
    fewest = needs.channels
    if fewest > 1 and not needs.colour:
        few = sum(len(source.channels) < fewest for source in index.sources)
        if few:
            faults.append(f"{few} of {total} scans have fewer than {fewest} registered modalities")
    if len(index.subjects) < needs.subjects:
        faults.append(f"there are {len(index.subjects)} subjects, and it needs {needs.subjects}")
    per_subject = Counter(source.subject for source in index.sources)
    if needs.scans_per_subject > 1 and max(per_subject.values()) < needs.scans_per_subject:
        faults.append(f"no subject has {needs.scans_per_subject} scans")
    if faults:
        raise DataError(
            f"{slug} cannot learn from {index.root}: {'; '.join(faults)}",
            f"`unlabeled check {index.root}` says what the scans can be used for.",
        )


def split_records(
    records: Sequence[Record], seed: int
) -> tuple[tuple[Record, ...], tuple[Record, ...]]:
    """Hold out a tenth of the subjects for the pretext score; a manifest's own split comes first.

    Scans whose manifest says ``test`` are never seen; a single subject leaves nothing to hold out.
    """
    told = {record.source.split for record in records} - {None}
    if told:
        training = tuple(r for r in records if r.source.split in (None, "train"))
        held_out = tuple(r for r in records if r.source.split == "val")
        return training or tuple(records), held_out
    subjects = sorted({record.subject for record in records})
    if len(subjects) < 2:
        return tuple(records), ()
    share = max(HELD_OUT_SHARE, 1 / len(subjects))
    parts = split_subjects(subjects, {"train": 1 - share, "held out": share}, seed)
    chosen = set(parts["held out"]) or {subjects[-1]}
    return (
        tuple(r for r in records if r.subject not in chosen),
        tuple(r for r in records if r.subject in chosen),
    )


def fit_dims(options: SharedOptions, dims: int) -> SharedOptions:
    """Give a patch as many edges as the networks have axes: a 2D patch takes the first two.

    Raises
    ------
    OptionError
        A 2D patch was given for volumes.
    """
    patch = tuple(options.patch_size)
    if len(patch) < dims:
        raise OptionError(
            f"--patch-size {' '.join(map(str, patch))} has {len(patch)} edges, the scans {dims} axes",
            "Give one edge an axis, or --dims 2 to learn from slices.",
        )
    return replace(options, patch_size=patch[:dims], dims=dims)  # type: ignore[arg-type]


def write_encoder(
    method: Method,
    slug: str,
    options: SharedOptions,
    records: Sequence[Record],
    folder: RunFolder,
) -> None:
    """Write what the method carries over, with what a later load must agree on."""
    known = [record.spacing for record in records if record.spacing is not None]
    spacing = [sorted(axis)[len(axis) // 2] for axis in zip(*known, strict=True)] if known else None
    paper = catalogue.cards().get(slug)
    metadata = {
        "slug": slug,
        "encoder": options.encoder,
        "dims": method.encoder.dims,
        "channels": method.encoder.in_channels,
        "spacing": [float(edge) for edge in spacing] if spacing else None,
        "orientation": "RAS" if records[0].affine is not None else None,
        "intensity": records[0].rule.as_metadata(),
        "patch_size": list(options.patch_size),
        "modality": sorted({record.modality for record in records}),
        "data": fingerprint(records),
        "licence": "of the scans it was learnt from",
        "citation": f"{paper.title} ({paper.venue} {paper.year})" if paper else slug,
    }
    save_encoder(folder.encoder, method.carries(), metadata)


def _complete(
    kind: type[Method],
    options: SharedOptions | None,
    settings: Settings | None,
    values: Mapping[str, Any],
) -> tuple[SharedOptions, Settings]:
    """Make what is not ready-made from values by name."""
    for_settings = {n: v for n, v in values.items() if n in Settings.names()}
    rest = {n: v for n, v in values.items() if n not in for_settings}
    if options is None:
        made = kind.options_class.from_names(**rest)
        if not isinstance(made, SharedOptions):
            raise TypeError(f"{kind.options_class} is no SharedOptions")
        options = made
    elif rest:
        options = replace(options, **rest)
    if settings is None:
        settings = Settings(**for_settings)
    elif for_settings:
        settings = replace(settings, **for_settings)
    return options, settings


def _first_options(
    kind: type[Method],
    options: SharedOptions,
    sources: Mapping[str, str],
    folder: RunFolder,
) -> SharedOptions:
    """Take the options of the first start; refuse one that is typed now and differs."""
    read = folder.read_options()
    names = kind.options_class.names()
    kept = {n: tuple(v) if isinstance(v, list) else v for n, v in read.items() if n in names}
    first = kind.options_class.from_names(**kept)
    if not isinstance(first, SharedOptions):
        raise TypeError(f"{kind.options_class} is no SharedOptions")
    for name in names:
        now, then = getattr(options, name), getattr(first, name)
        if sources.get(name) == "command line" and now != then:
            raise OptionError(
                f"--{name.replace('_', '-')} is {now}, but this run was started with {then}",
                "Leave it out to go on, or give another --out to start anew.",
            )
    return first


def _prepare(
    kind: type[Method],
    options: SharedOptions,
    index: Index,
    settings: Settings,
    cache: Path | None,
) -> tuple[tuple[Record, ...], int, list[Quarantined]]:
    """Prepare all scans, and leave out what does not go with the rest."""
    own = kind.prepare is not Method.prepare
    if own:
        raise OptionError(f"{kind.__name__} prepares scans itself, which the store does not know")
    store = Store(cache, spacing=options.spacing)
    sources: Sequence[Source] = index.sources
    with Reporter("preparing", len(sources), quiet=settings.quiet, unit="scans/s") as reporter:
        prepared = store.prepare(
            sources,
            rule=kind.intensity(options),
            workers=settings.workers or 0,
            progress=lambda done, of: reporter.show(done),
        )
    left_out = [*index.quarantine, *prepared.quarantine]
    usable, dims = choose_dims(prepared.records, options.dims, kind.needs.dims, left_out)
    usable = _same_channels(usable, left_out)
    if not usable:
        raise DataError(
            f"none of {len(sources)} scans below {index.root} can be used",
            f"`unlabeled check {index.root}` says why.",
        )
    return usable, dims, left_out


def choose_dims(
    records: Sequence[Record],
    asked: int | None,
    able: tuple[int, ...],
    left_out: list[Quarantined],
) -> tuple[tuple[Record, ...], int]:
    """Choose 2D or 3D networks, and leave out pictures from a 3D run.

    Raises
    ------
    OptionError
        The method has no such form.
    """
    volumes = sum(record.dims == 3 for record in records)
    dims = asked or (3 if volumes * 2 > len(records) and 3 in able else min(able))
    if dims not in able:
        raise OptionError(
            f"--dims {dims}: the method works in {' and '.join(f'{d}D' for d in able)}",
            f"Give --dims {able[0]}.",
        )
    usable = []
    for record in records:
        if record.dims >= dims:
            usable.append(record)
        else:
            left_out.append(
                Quarantined(
                    record.source.name,
                    f"a {record.dims}D picture in a {dims}D run",
                    "Give --dims 2 to learn from pictures and slices.",
                )
            )
    return tuple(usable), dims


def _same_channels(records: Sequence[Record], left_out: list[Quarantined]) -> tuple[Record, ...]:
    """Keep the scans with the usual number of channels."""
    if not records:
        return ()
    usual = Counter(record.channels for record in records).most_common(1)[0][0]
    usable = []
    for record in records:
        if record.channels == usual:
            usable.append(record)
        else:
            reason = f"{record.channels} channel(s), most scans have {usual}"
            left_out.append(Quarantined(record.source.name, reason, "Pretrain on it separately."))
    return tuple(usable)


def _keep_best(method: Method, folder: RunFolder) -> None:
    """Put the best weights back where the method keeps them."""
    if method.keeps == "best" and folder.best.exists():
        restore_method(read_checkpoint(folder.best), method)


def _named(options: SharedOptions, settings: Settings) -> dict[str, Any]:
    return {
        **{name: getattr(options, name) for name in options.names()},
        **{name: getattr(settings, name) for name in settings.names() if name != "resume"},
    }
