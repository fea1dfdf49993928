"""From an encoder and few labels to a task: what `unlabeled finetune` and `unlabeled.finetune` do."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import torch

from unlabeled.data.index import index_scans
from unlabeled.data.scan import Index, Quarantined
from unlabeled.data.store import Record, Store
from unlabeled.errors import OptionError, RunError
from unlabeled.nn.encoders import require_encoder
from unlabeled.nn.weights import LoadReport
from unlabeled.training.engine import train
from unlabeled.training.facts import gather_facts
from unlabeled.training.given import complete, first_options, first_settings, named
from unlabeled.training.log import RunFolder
from unlabeled.training.origin import name_modality
from unlabeled.training.progress import Reporter
from unlabeled.training.selection import choose_dims, nothing_usable, same_channels
from unlabeled.training.settings import Settings, device_kind, is_first_process, make_fabric
from unlabeled.training.state import Result
from unlabeled.transfer.cohort import (
    Cohort,
    draw_cohort,
    plan_length,
    usable_sources,
)
from unlabeled.transfer.evaluate import Evaluation, evaluate, write_metrics
from unlabeled.transfer.registry import TASKS
from unlabeled.transfer.saved import save_task
from unlabeled.transfer.start import Start, build_task, describe_origin
from unlabeled.transfer.task import FinetuneOptions, Task, TaskName


@dataclass(frozen=True, kw_only=True)
class Finetuned:
    """What a fine-tuning left behind.

    Parameters
    ----------
    out
        The run folder.
    result
        Steps, validation scores on patches, time.
    metrics
        Scores on whole subjects by part (``val``; ``test`` when asked for), with intervals.
    subjects
        How many were trained on, validated on and set aside for the test.
    loaded
        What became of the pretrained tensors; None from scratch.
    notes
        What a person should know.
    quarantined
        Scans left out.
    """

    out: Path
    result: Result
    metrics: dict[str, Evaluation]
    subjects: dict[str, int]
    loaded: LoadReport | None
    notes: tuple[str, ...]
    quarantined: int


def finetune(
    task: TaskName,
    labelled: Path | str,
    out: Path | str,
    *,
    init: Path | str,
    options: FinetuneOptions | None = None,
    settings: Settings | None = None,
    sources: Mapping[str, str] | None = None,
    like: Path | str | Mapping[str, Any] | None = None,
    cache: Path | str | None = None,
    test: bool = False,
    again: str = "",
    **values: Any,
) -> Finetuned:
    """Train a task on labelled scans, from a pretrained encoder or from scratch, with the same budget.

    Parameters
    ----------
    task
        A key of `TASKS`: ``segment``, ``instances``, ``classify``, ...
    labelled
        Folder, data set or manifest with masks, labels or targets.
    out
        Run folder to make, or to go on with (``resume=True``).
    init
        Run folder or weights file to start from, or ``scratch``.
    options, settings
        Ready-made; or give their values by name: ``steps=300, workers=2``.
    like
        From scratch: run folder or weights file whose network, patch and intensity rule are taken, for a fair
        comparison; or what its metadata would say.
    sources
        Where each option's value came from, for ``options.toml``.
    cache
        Folder of prepared scans; the user's cache folder when absent.
    test
        Whether to measure on the test subjects as well: once, when everything is decided.
    again
        What to type to go on with the run, for messages.

    Raises
    ------
    UnlabeledError
        Something that the person can mend: an option, the data, the weights, the run folder.
    """
    if task not in get_args(TaskName):
        raise OptionError(f"unknown task {task!r}", f"Give one of {', '.join(get_args(TaskName))}.")
    options, settings = _complete(options, settings, values, sources or {})
    folder = RunFolder(Path(out))
    what = f"finetune {task}"
    if settings.resume:
        folder.require(what)
        options = first_options(FinetuneOptions, options, sources or {}, folder)
        settings = first_settings(settings, sources, folder)
    elif is_first_process():
        folder.refuse_held(again)
    if options.encoder:
        require_encoder(options.encoder)
    device_kind(settings.accelerator)
    start = Start.read(init, like)
    if settings.resume:
        _require_start(start, folder)
    root = Path(cache) if cache else None
    index = index_scans(labelled, labelled=True, cache=root)
    usable_sources(task, index)
    with folder.opened(resume=settings.resume, again=again):
        records, left_out, options = _prepare(task, index, start, options, settings, root)
        cohort = draw_cohort(records, options)
        studies = _studies(task, index, cohort, start, options, settings, root)
        model, notes, report = build_task(task, records, cohort, index, start, options, studies)
        if not settings.resume:
            model.options = plan_length(model.options, len(cohort.train))
        options = model.options
        settings = _watching(settings, cohort, options)
        fabric, arithmetic = make_fabric(settings)
        facts = gather_facts(
            command=what,
            records=records,
            options=options,
            fabric=fabric,
            arithmetic=arithmetic,
            earlier=folder.read_facts() if settings.resume else {},
        )
        folder.require_data(facts["listing"], str(labelled))
    facts |= {
        "task": task,
        "init": start.called,
        "init_slug": start.metadata.get("slug"),
        "loaded": None if report is None else report.lines(),
        "notes": list(notes),
        "subjects": cohort.counts(),
        "train_subjects_labelled": cohort.train_subjects,
        "train_scans": len(cohort.train),
        "scans": len(records),
        "quarantined": len(left_out),
    }
    if is_first_process():
        about = {"task": task, "init": start.called, **named(options, settings)}
        folder.write_options(about, sources or {})
        folder.write_quarantine(left_out)
        folder.write_facts(facts)
    began = time.time()
    if model.gradients:
        result = train(
            model,
            cohort.train,
            cohort.val,
            settings,
            folder,
            fabric=fabric,
            arithmetic=arithmetic,
            title=f"fine-tuning ({task})",
        )
    else:
        model.to(fabric.device).eval()
        with torch.no_grad():
            model.fit(cohort.train)
        result = Result(
            steps=0,
            score={},
            best=None,
            seconds=time.time() - began,
            wait_share=0.0,
            exit_reason="finished",
        )
    scored: dict[str, Evaluation] = {}
    if is_first_process():
        done = result.exit_reason != "interrupted"
        if done:
            model.eval()
            with torch.no_grad():
                model.calibrate(cohort.val)
            save_task(folder.path, model, describe_origin(start, records, model))
            scored = _score(model, cohort, test=test, quiet=settings.quiet)
            write_metrics(folder.path, scored)
        facts |= {
            "seconds": facts.get("seconds", 0.0) + time.time() - began,
            "finished": done,
            "exit_reason": result.exit_reason,
            "steps": result.steps,
            "score": result.score,
            "wait_share": result.wait_share,
        }
        folder.write_facts(facts)
    return Finetuned(
        out=folder.path,
        result=result,
        metrics=scored,
        subjects=cohort.counts(),
        loaded=report,
        notes=notes,
        quarantined=len(left_out),
    )


def _require_start(start: Start, folder: RunFolder) -> None:
    """Refuse to go on from other weights than the run was started with."""
    was = folder.read_facts().get("init", start.called)
    if was != start.called:
        raise RunError(
            f"{folder.path} was started with --init {was}, not with --init {start.called}",
            f"Give --init {was} to go on, or another --out to start anew.",
        )


def _prepare(
    task: TaskName,
    index: Index,
    start: Start,
    options: FinetuneOptions,
    settings: Settings,
    cache: Path | None,
) -> tuple[tuple[Record, ...], list[Quarantined], FinetuneOptions]:
    """Prepare the labelled scans under the rule of the weights, and resolve encoder, dims and patch."""
    usable, without = usable_sources(task, index)
    store = Store(cache, spacing=options.spacing)
    with Reporter("preparing", len(usable), quiet=settings.quiet, unit="scans/s") as reporter:
        prepared = store.prepare(
            name_modality(usable, options.modality, start.metadata),
            rule=start.rule,
            workers=settings.workers or 0,
            progress=lambda done, of: reporter.show(done),
        )
    left_out = [*index.quarantine, *without, *prepared.quarantine]
    known = start.metadata
    records, dims = choose_dims(
        prepared.records, options.dims or known.get("dims"), (2, 3), left_out
    )
    records = same_channels(records, None, left_out)
    if not records:
        raise nothing_usable(index, left_out)
    encoder = options.encoder or known.get("encoder") or ("unet" if start.tensors is None else "")
    if not encoder:
        raise RunError(
            f"{start.called} does not say which network its weights belong to",
            "Say it with --encoder; `unlabeled doctor` lists the names.",
        )
    patch = options.patch_size
    if not patch and len(known.get("patch_size") or ()) >= dims:
        patch = tuple(known["patch_size"])[:dims]
    return (
        records,
        left_out,
        replace(options, encoder=encoder, dims=2 if dims == 2 else 3, patch_size=patch),
    )


def _studies(
    task: TaskName,
    index: Index,
    cohort: Cohort,
    start: Start,
    options: FinetuneOptions,
    settings: Settings,
    cache: Path | None,
) -> tuple[Record, ...]:
    """Prepare what a task learns from without labels; nothing of a subject that is validated or tested on."""
    if not TASKS[task].studies:
        return ()
    index = index_scans(options.studies or index.root, cache=cache)
    held = {record.subject for record in (*cohort.val, *cohort.test)}
    allowed = [
        source
        for source in index.sources
        if source.subject not in held and (source.split or "train") == "train"
    ]
    store = Store(cache, spacing=options.spacing)
    with Reporter("preparing", len(allowed), quiet=settings.quiet, unit="scans/s") as reporter:
        prepared = store.prepare(
            name_modality(tuple(allowed), options.modality, start.metadata),
            rule=start.rule,
            workers=settings.workers or 0,
            progress=lambda done, of: reporter.show(done),
        )
    return tuple(prepared.records)


def _watching(settings: Settings, cohort: Cohort, options: FinetuneOptions) -> Settings:
    """Score as many patches between epochs as give every validation scan its say, 16 batches at most."""
    if not cohort.val:
        return settings
    batches = min(16, -(-2 * len(cohort.val) // options.batch_size))
    return replace(settings, held_out_batches=max(1, batches))


def _score(model: Task, cohort: Cohort, *, test: bool, quiet: bool) -> dict[str, Evaluation]:
    parts = {"val": cohort.val, **({"test": cohort.test} if test else {})}
    model.eval()
    scored = {}
    for name, records in parts.items():
        if records:
            title = f"measuring ({name})"
            with Reporter(title, len(records), quiet=quiet, unit="scans/s") as reporter:
                scored[name] = evaluate(
                    model, records, tolerance=model.options.tolerance, progress=reporter.show
                )
    return scored


def _complete(
    options: FinetuneOptions | None,
    settings: Settings | None,
    values: Mapping[str, Any],
    sources: Mapping[str, str],
) -> tuple[FinetuneOptions, Settings]:
    """Complete the options; epochs without steps mean passes over the scans."""
    options, settings = complete(FinetuneOptions, options, settings, values)
    said = {*values, *(name for name, source in sources.items() if source != "default")}
    if "epochs" in said and "steps" not in said:
        options = replace(options, steps=None)
    return options, settings
