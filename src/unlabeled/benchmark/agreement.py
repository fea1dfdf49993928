"""Whether the runs of a comparison's folder are those that a plan asks for: kept in ``asked.json``, told when not."""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from unlabeled.benchmark.jobs import Job, jobs_of
from unlabeled.benchmark.plan import SCRATCH, Plan
from unlabeled.data.scan import Source
from unlabeled.errors import RunError
from unlabeled.methods._registry import find
from unlabeled.options import Options, flag
from unlabeled.training.checkpoint import write_atomically
from unlabeled.transfer.task import FinetuneOptions

NAME = "asked.json"


def name_scans(sources: Iterable[Source]) -> str:
    """Name scans by what the index says of them: the same wherever the folder lies."""
    digest = hashlib.blake2b(digest_size=8)
    for each in sorted(sources, key=lambda source: source.name):
        told = (each.name, each.subject, each.split, each.label, each.target, each.modality)
        digest.update("\0".join(map(str, told)).encode() + b"\n")
    return digest.hexdigest()


def agree(plan: Plan, out: Path, scans: str, labelled: str) -> None:
    """Refuse a plan that asks other things of runs that were begun, and keep what it asks of every run.

    Runs without an entry are taken as they are.

    Parameters
    ----------
    plan
        What is asked for now.
    out
        Folder of the comparison.
    scans, labelled
        Names of the data, from `name_scans`.

    Raises
    ------
    RunError
        Runs were begun with other options or scans: which, what changed, and what to type.
    """
    path = out / NAME
    held = _read(path)
    jobs = jobs_of(plan)
    now = {_key(plan, job): _asked(plan, job, scans, labelled) for job in jobs}
    changed: dict[str, list[Job]] = {}
    for job in jobs:
        key = _key(plan, job)
        if key not in held or not (job.place(plan, out) / "run.json").exists():
            continue
        for text in _differences(plan, job, held[key], now[key]):
            changed.setdefault(text, []).append(job)
    if changed:
        raise _disagreement(plan, out, changed)
    out.mkdir(parents=True, exist_ok=True)
    kept = json.dumps({**held, **now}, indent=1, sort_keys=True) + "\n"
    write_atomically(path, kept.encode())


def _read(path: Path) -> dict[str, dict[str, Any]]:
    try:
        held: dict[str, dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError:
        raise RunError(
            f"{path} is damaged", f"Remove it to take the runs as they are: rm {path}"
        ) from None
    return held


def _key(plan: Plan, job: Job) -> str:
    return str(job.place(plan, Path()))


def _asked(plan: Plan, job: Job, scans: str, labelled: str) -> dict[str, Any]:
    """Say what a plan asks of one run, as plain values."""
    if job.cell is None:
        asked = {"scans": scans, "options": dict(plan.methods[job.method])}
    else:
        asked = {"labelled": labelled, "task": plan.task, "options": dict(plan.finetuning)}
        if job.method == SCRATCH:
            like = plan.scratch_like()
            asked["like"] = {name: like[name] for name in ("encoder", "dims", "intensity")}
        else:
            asked["pretraining"] = {"scans": scans, "options": dict(plan.methods[job.method])}
    plain: dict[str, Any] = json.loads(json.dumps(asked))
    return plain


def _differences(
    plan: Plan, job: Job, then: Mapping[str, Any], now: Mapping[str, Any]
) -> Iterable[str]:
    """Say what differs, in the same words for all runs that it concerns."""
    if job.cell is None:
        if then["scans"] != now["scans"]:
            yield f"{job.method} learnt from other scans than those of {plan.scans}"
        for text in _options(then["options"], now["options"], find(job.method).options_class):
            yield f"{job.method} was pretrained with {text}"
        return
    if then["labelled"] != now["labelled"]:
        yield f"the labelled scans were not those of {plan.labelled}"
    if then["task"] != now["task"]:
        yield f"the task was {then['task']}, and is {now['task']}"
    for text in _options(then["options"], now["options"], FinetuneOptions):
        yield f"fine-tuning was with {text}"
    if job.method == SCRATCH:
        for name, value in now["like"].items():
            was = then["like"].get(name)
            if was != value:
                yield f"scratch was with {flag(name)} {_show(was)}, and the plan says {_show(value)}"
    else:
        yield from _differences(plan, Job(job.method), then["pretraining"], now["pretraining"])


def _options(then: Mapping[str, Any], now: Mapping[str, Any], kind: type[Options]) -> Iterable[str]:
    """Compare option by option; one that is not named has its default."""
    usual: dict[str, Any] = json.loads(
        json.dumps({name: getattr(kind, name, None) for name in kind.names()})
    )
    for name in sorted({*then, *now}):
        was, is_now = then.get(name, usual.get(name)), now.get(name, usual.get(name))
        if was != is_now:
            yield f"{flag(name)} {_show(was)}, and the plan says {_show(is_now)}"


def _show(value: Any) -> str:
    if value is None:
        return "unset"
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def _disagreement(plan: Plan, out: Path, changed: Mapping[str, list[Job]]) -> RunError:
    """Name what changed, how many runs it concerns, and what to type."""
    facts = [
        f"{text} ({len(jobs)} {'run' if len(jobs) == 1 else 'runs'})"
        for text, jobs in changed.items()
    ]
    concerned = {job.name: job for jobs in changed.values() for job in jobs}
    places = []
    for slug in dict.fromkeys(job.method for job in concerned.values()):
        own = [job for job in concerned.values() if job.method == slug]
        if any(job.cell is None for job in own):
            places.append(shlex.quote(str(out / Job(slug).name)))
        if any(job.cell is not None for job in own):
            places.append(shlex.quote(str(out / plan.part)) + f"/{slug}-*")
    return RunError(
        f"{out} holds runs of another plan: " + "; ".join(facts),
        "Give what they were begun with to go on, or another --out to start anew.\n"
        f"To do these runs again: rm -r {' '.join(places)}",
    )
