"""Pretraining from a folder of scans to an encoder: what `unlabeled pretrain` and `unlabeled.pretrain` do."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from unlabeled import catalogue
from unlabeled.data.index import index_scans
from unlabeled.data.scan import Index, Quarantined, Source, say_modality
from unlabeled.data.store import Prepared, Record, Store
from unlabeled.errors import DataError, ScanError
from unlabeled.methods._base import Method, SharedOptions
from unlabeled.methods._registry import find
from unlabeled.nn.encoders import build_encoder, require_encoder
from unlabeled.nn.weights import save_encoder
from unlabeled.rng import derive
from unlabeled.training.engine import train
from unlabeled.training.facts import fingerprint, gather_facts
from unlabeled.training.given import complete, first_options, first_settings, named
from unlabeled.training.log import RunFolder
from unlabeled.training.origin import load_init, origin_facts, weights_file
from unlabeled.training.progress import Reporter
from unlabeled.training.selection import (
    alternatives,
    choose_dims,
    fit_dims,
    meet_needs,
    nothing_usable,
    refuse_columns,
    same_channels,
    split_records,
)
from unlabeled.training.settings import Settings, device_kind, is_first_process, make_fabric
from unlabeled.training.state import Result

#: File of a run folder with the whole method, for methods that make something of a scan by themselves.
WHOLE = "method.safetensors"


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
    loaded
        What was loaded from ``init``, line by line.
    """

    out: Path
    encoder: Path
    result: Result
    scans: int
    quarantined: int
    loaded: tuple[str, ...] = ()


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
    again: str = "",
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
    again
        What to type to go on with the run, for messages.

    Raises
    ------
    UnlabeledError
        Something that the person can mend: an option, the data, the run folder.
    """
    kind = find(slug)
    options, settings = complete(kind.options_class, options, settings, values)
    return carry_out(
        Job(
            slug=slug,
            scans=scans,
            folder=RunFolder(Path(out)),
            options=options,
            settings=settings,
            sources=sources,
            init=init,
            cache=Path(cache) if cache else None,
            again=again,
        )
    )


@dataclass(frozen=True, kw_only=True)
class Job:
    """One pretraining as it was asked for; the entries are those of `pretrain`."""

    slug: str
    scans: Path | str
    folder: RunFolder
    options: SharedOptions
    settings: Settings
    sources: Mapping[str, str] | None = None
    init: Path | str | None = None
    cache: Path | None = None
    again: str = ""


def prepare_all(
    kind: type[Method],
    options: SharedOptions,
    sources: Sequence[Source],
    settings: Settings,
    cache: Path | None,
) -> Prepared:
    """Prepare every scan that the store does not hold yet."""
    store = open_store(kind, options, cache)
    with Reporter("preparing", len(sources), quiet=settings.quiet, unit="scans/s") as reporter:
        return store.prepare(
            sources,
            rule=kind.intensity(options),
            workers=settings.workers or 0,
            progress=lambda done, of: reporter.show(done),
        )


def carry_out(
    job: Job,
    *,
    prepare: Callable[..., Prepared] = prepare_all,
    learn: Callable[..., Result] = train,
) -> Pretrained:
    """Do what `pretrain` says.

    Parameters
    ----------
    job
        What was asked for.
    prepare, learn
        Called as `prepare_all` and `train` are; an estimate prepares few scans and takes few steps, and all else of it
        is the run itself.
    """
    slug, folder, options, settings = job.slug, job.folder, job.options, job.settings
    kind = find(slug)
    what = f"pretrain {slug}"
    if settings.resume:
        folder.require(what)
        options = first_options(kind.options_class, options, job.sources or {}, folder)
        settings = first_settings(settings, job.sources, folder)
    elif is_first_process():
        folder.refuse_held(job.again)
    require_encoder(options.encoder)
    device_kind(settings.accelerator)
    if job.init is not None:
        weights_file(job.init)
    index = index_scans(job.scans, cache=job.cache)
    refuse_columns(slug, kind.needs_with(options), index)
    with folder.opened(resume=settings.resume, again=job.again):
        prepared = prepare(
            kind, options, say_modality(index.sources, options.modality), settings, job.cache
        )
        records, dims, left_out = _select(slug, kind, options, index, prepared)
        options = fit_dims(options, dims)
        records = _require(kind, options, records, index, left_out)
        options = _suit(slug, kind, options, records, index)
        training, held_out = split_records(
            records,
            options.seed,
            kind.needs.held_out,
            by=kind.holds_out,
            splits=kind.learns_from(options),
        )
        method = build_method(kind, options, dims=dims, channels=training[0].channels)
        loaded = [] if job.init is None else load_init(method, options, training, job.init)
        fabric, arithmetic = make_fabric(settings)
        facts = gather_facts(
            command=what,
            records=records,
            options=options,
            fabric=fabric,
            arithmetic=arithmetic,
            earlier=folder.read_facts() if settings.resume else {},
        )
        loaded = [*loaded, *method.notes()]
        facts |= {"loaded": loaded, "scans": len(records), "quarantined": len(left_out)}
        folder.require_data(facts["listing"], str(job.scans))
        if is_first_process():
            folder.write_options(named(options, settings), job.sources or {})
            folder.write_quarantine(left_out)
            folder.write_facts(facts)
    began = time.time()
    result = learn(
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
        write_encoder(method, slug, options, training, folder)
        facts |= {
            "seconds": facts.get("seconds", 0.0) + time.time() - began,
            "finished": result.exit_reason != "interrupted",
            "exit_reason": result.exit_reason,
            "steps": result.steps,
            "score": result.score,
            "wait_share": result.wait_share,
        }
        folder.write_facts(facts)
    return Pretrained(
        out=folder.path,
        encoder=folder.encoder,
        result=result,
        scans=len(records),
        quarantined=len(left_out),
        loaded=tuple(loaded),
    )


def _require(
    kind: type[Method],
    options: SharedOptions,
    records: Sequence[Record],
    index: Index,
    left_out: list[Quarantined],
) -> tuple[Record, ...]:
    """Leave out the scans that the method refuses under these options."""
    usable = []
    for record in records:
        try:
            kind.require(record, options)
        except ScanError as fault:
            left_out.append(Quarantined(record.source.name, fault.fact, fault.remedy))
        else:
            usable.append(record)
    lacking = kind.refuse(options, usable)
    left_out += [Quarantined(name, fault.fact, fault.remedy) for name, fault in lacking.items()]
    usable = [record for record in usable if record.source.name not in lacking]
    if not usable:
        refused = left_out[-len(records)]
        more = f" (and {len(records) - 1} more alike)" if len(records) > 1 else ""
        raise DataError(
            f"none of {len(index.sources)} scans below {index.root} can be used with these options. "
            f"{refused.name}: {refused.reason}{more}",
            refused.remedy,
        )
    return tuple(usable)


def _suit(
    slug: str,
    kind: type[Method],
    options: SharedOptions,
    records: Sequence[Record],
    index: Index,
) -> SharedOptions:
    """Let the method look at the scans; where it refuses them, say which methods would work instead."""
    try:
        suited: SharedOptions = kind.suit(options, records)
    except DataError as fault:
        instead = alternatives(slug, records, index)
        raise DataError(fault.fact, f"{fault.remedy}\n{instead}".strip()) from None
    return suited


def build_method(
    kind: type[Method],
    options: SharedOptions,
    *,
    dims: int,
    channels: int,
) -> Method:
    """Build a method with its networks; the weights depend on the seed alone."""
    torch.manual_seed(derive(options.seed, "weights"))
    channels = channels if kind.in_channels is None else kind.in_channels
    encoder = build_encoder(options.encoder, dims=dims, in_channels=channels)
    return kind(options, encoder)


def open_store(kind: type[Method], options: SharedOptions, cache: Path | None) -> Store:
    """Open the store of scans prepared as a method with these options wants them."""
    own = kind.preparation(options)
    key = "" if own is None else f"{type(own).__module__}.{own!r}"
    return Store(cache, spacing=options.spacing, prepare=own, prepare_key=key)


def write_encoder(
    method: Method,
    slug: str,
    options: SharedOptions,
    records: Sequence[Record],
    folder: RunFolder,
) -> None:
    """Write what the method carries over, with what a later load must agree on; all of it where it makes something."""
    paper = catalogue.cards().get(slug)
    metadata = {
        **origin_facts(options.encoder, method.encoder.dims, records),
        "slug": slug,
        "options": {name: getattr(options, name) for name in options.names()},
        "patch_size": list(options.patch_size),
        "data": fingerprint(records),
        "licence": "of the scans it was learnt from",
        "citation": f"{paper.title} ({paper.venue} {paper.year})" if paper else slug,
    }
    save_encoder(folder.encoder, method.carries(), metadata)
    if method.makes:
        whole = {**metadata, "channels": records[0].channels}
        save_encoder(folder.path / WHOLE, {"method": method}, whole)


def _select(
    slug: str,
    kind: type[Method],
    options: SharedOptions,
    index: Index,
    prepared: Prepared,
) -> tuple[tuple[Record, ...], int, list[Quarantined]]:
    """Leave out what does not go with the rest, and say how many axes the networks have."""
    left_out = [*index.quarantine, *prepared.quarantine]
    usable, dims = choose_dims(prepared.records, options.dims, kind.needs.dims, left_out)
    usable = meet_needs(slug, kind.needs_with(options), usable, index, left_out)
    if kind.in_channels is None:
        usable = same_channels(usable, None, left_out)
    if not usable:
        raise nothing_usable(index, left_out)
    return usable, dims, left_out
