"""Which method helps on these data?  Every method against scratch, with the same splits, network and budget."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from unlabeled.benchmark.agreement import agree
from unlabeled.benchmark.asked import Asked
from unlabeled.benchmark.engines import Processes
from unlabeled.benchmark.jobs import LOCKS, Done, Engine, Job, held, is_done, jobs_of, run_plan
from unlabeled.benchmark.measures import compare_measures
from unlabeled.benchmark.plan import SCRATCH, Outcome, Plan, pretraining_of, read_metrics
from unlabeled.benchmark.plan_file import write_plan
from unlabeled.benchmark.resolve import Resolved, resolve
from unlabeled.benchmark.statistics import Comparison
from unlabeled.benchmark.tables import SCORES, TABLE, markdown_table, write_scores
from unlabeled.benchmark.verdict import verdict
from unlabeled.errors import OptionError
from unlabeled.training.checkpoint import write_atomically
from unlabeled.training.facts import git_state
from unlabeled.training.log import RunFolder
from unlabeled.transfer.task import TaskName

EngineName = Literal["local", "ray"]


@dataclass(frozen=True, kw_only=True)
class Compared:
    """What a comparison came to.

    Parameters
    ----------
    out
        Its folder: ``scores.csv``, ``table.md``, ``failed.csv``, ``plan.toml`` and the runs.
    report
        The page.
    plan
        What was compared with what.
    outcome
        Scores of every measured subject, failures, costs.
    comparison
        Means, intervals and differences to scratch; None where nothing was measured.
    verdict
        The outcome in one sentence.
    notes
        What was chosen and what a person should know.
    left_out
        With ``methods="all"``: why methods do not fit, by slug.
    exit_code
        0 when all is done, 1 when something failed, 2 when every failure is the person's to mend.
    """

    out: Path
    report: Path | None
    plan: Plan
    outcome: Outcome
    comparison: Comparison | None
    verdict: str
    notes: tuple[str, ...]
    left_out: Mapping[str, str] = field(default_factory=dict)
    exit_code: int = 0


def compare(
    scans: Path | str | None = None,
    labelled: Path | str | None = None,
    *,
    out: Path | str,
    methods: Sequence[str] | Mapping[str, Mapping[str, Any]] | None = None,
    label_fractions: Sequence[float] | None = None,
    seeds: int | None = None,
    task: TaskName | None = None,
    part: Literal["val", "test"] | None = None,
    title: str | None = None,
    config: Path | str | None = None,
    engine: EngineName = "local",
    jobs: int = 1,
    address: str | None = None,
    cpus_per_cell: float = 1.0,
    gpus_per_cell: float = 0.0,
    memory_per_cell: float | None = None,
    retries: int = 3,
    cache: Path | str | None = None,
    say: Callable[[str], None] = lambda text: None,
    **values: Any,
) -> Compared:
    """Compare methods with training from scratch, at every label fraction and from every seed.

    What has finished in `out` is taken as it is, what has begun goes on; so the same call may be made again after any
    interruption, and methods, label fractions and seeds may be added.

    Parameters
    ----------
    scans
        Folder, data set or manifest of unlabelled scans.
    labelled
        Folder, data set or manifest with masks, labels or targets.
    out
        Folder of the comparison.
    methods
        Slugs, or options by slug; ``["all"]`` takes every method that fits.
    label_fractions
        Shares of the labelled training subjects up to 1, or numbers of subjects above 1; by default all.
    seeds
        Random starts of each cell; by default 3.
    task
        ``segment``, ``classify`` or ``regress``; by default guessed from what `labelled` has.
    part
        Subjects that the figures are of: ``test``, or ``val`` while options are chosen.
    title
        What the comparison is about.
    config
        Plan file (TOML) with what differs by method, in sections ``[methods.SLUG]`` and ``[finetuning]``.
    engine
        ``local`` for processes of this machine, ``ray`` for a Ray cluster.
    jobs
        Processes at a time; they share the cores (local).
    address, cpus_per_cell, gpus_per_cell, memory_per_cell, retries
        Of the cluster, and what it sets aside for each run; memory in GB; how often a run is begun again that its
        machine took down (ray).
    cache
        Folder of prepared scans; the user's cache folder when absent.
    say
        Called with lines about the progress.
    values
        Options by name: of the network (``encoder``, ``patch_size``, ``dims``, ...), of every pretraining
        (``pretrain_steps``, ...), of every fine-tuning (``steps``, ``lr``, ...), of the machine (``accelerator``, ...).

    Raises
    ------
    UnlabeledError
        Something that the person can mend; nothing has run.
    KeyboardInterrupt
        The person interrupts; every run has saved.
    """
    place, root = Path(out).expanduser(), Path(cache).expanduser() if cache else None
    performer = _engine(
        engine, jobs, address, cpus_per_cell, gpus_per_cell, memory_per_cell, retries
    )
    asked = Asked(
        scans=None if scans is None else Path(scans),
        labelled=None if labelled is None else Path(labelled),
        methods=methods,
        fractions=label_fractions,
        seeds=seeds,
        task=task,
        part=part,
        title=title,
        config=None if config is None else Path(config),
        values=values,
    )
    resolved = resolve(asked, root)
    plan = resolved.plan
    if place.is_file():
        raise OptionError(f"{place} is a file", "Give a folder with --out.")
    with held(place / LOCKS / "comparison"), _ended_as_interrupted():
        agree(plan, place, resolved.scans, resolved.labelled)
        write_plan(plan, place)
        for slug, reason in resolved.left_out.items():
            say(f"left out: {slug}, as {reason.removeprefix(slug).strip()}")
        for note in resolved.notes:
            say(note)
        pace = _Pace(plan, place, performer.places, say)
        outcome = run_plan(plan, place, cache=root, engine=performer, tell=pace.tell)
        return _conclude(resolved, place, root, outcome, pace.failed)


def _engine(
    name: str,
    jobs: int,
    address: str | None,
    cpus: float,
    gpus: float,
    memory: float | None,
    retries: int,
) -> Engine:
    if name == "local":
        return Processes(jobs)
    if name == "ray":
        from unlabeled.benchmark.engines_ray import Cluster

        return Cluster(address, cpus=cpus, gpus=gpus, memory=memory, retries=retries)
    raise OptionError(f"--engine is {name!r}", "Give --engine local or --engine ray.")


def _conclude(
    resolved: Resolved, out: Path, cache: Path | None, outcome: Outcome, failed: Sequence[Done]
) -> Compared:
    """Judge, and write the files."""
    from unlabeled.benchmark.summary import write_comparison

    plan = resolved.plan
    measured = compare_measures(plan.task, outcome)
    comparison = measured[0].comparison if measured else None
    said = _verdict(plan, outcome, comparison)
    write_scores(out / SCORES, outcome)
    text = markdown_table(
        plan,
        outcome,
        comparison,
        title=plan.title or f"{plan.task}: methods against scratch",
        verdict=said,
        source=f"Made by `unlabeled compare`, commit {git_state() or 'unknown'}.",
    )
    write_atomically(out / TABLE, text.encode())
    return Compared(
        out=out,
        report=write_comparison(plan, outcome, out, cache=cache) if measured else None,
        plan=plan,
        outcome=outcome,
        comparison=comparison,
        verdict=said,
        notes=resolved.notes,
        left_out=resolved.left_out,
        exit_code=0 if not failed else 2 if all(done.persons for done in failed) else 1,
    )


def _verdict(plan: Plan, outcome: Outcome, comparison: Comparison | None) -> str:
    if comparison is None:
        return "Nothing could be measured, so nothing can be said about a gain."
    if all(pretraining_of(slug) in outcome.failed for slug in plan.methods):
        return "Every pretraining failed, so nothing can be said about a gain."
    return verdict(comparison)


class _Pace:
    """Tells each job that has ended, and how long the rest takes."""

    def __init__(self, plan: Plan, out: Path, places: int, say: Callable[[str], None]) -> None:
        self.plan, self.out, self.places, self.say = plan, out, places, say
        every = jobs_of(plan)
        self.left = {job.name: job for job in every if not is_done(plan, job, out)}
        self.total = len(self.left)
        self.taken: dict[bool, list[float]] = {True: [], False: []}  # by: is it a pretraining
        self.failed: list[Done] = []
        self.known = self._known(job for job in every if job.name not in self.left)
        there = len(every) - self.total
        pretrainings = sum(job.cell is None for job in every)
        self.say(
            f"{len(every)} runs: {pretrainings} of pretraining, {len(every) - pretrainings} of fine-tuning; "
            f"{there} done already"
        )

    def tell(self, job: Job, done: Done) -> None:
        """Say what a job came to."""
        self.left.pop(job.name)
        if done.fault:
            self.failed.append(done)
            fact = done.fault.splitlines()[0]
            what = f"not done: {job.told}: {fact}"
        else:
            self.taken[job.cell is None].append(done.seconds)
            what = f"{job.told}: {self._score(job)}{span(done.seconds)}"
        count = f"[{self.total - len(self.left)}/{self.total}]"
        rest = self._rest()
        self.say(f"{count} {what}" + (f"; {rest} left" if rest and self.left else ""))

    def _score(self, job: Job) -> str:
        if job.cell is None:
            return ""
        rows = read_metrics(job.place(self.plan, self.out), self.plan.part)
        outcome = Outcome(
            tuple({"method": SCRATCH, "fraction": 1.0, "seed": 0, **row} for row in rows), {}, {}
        )
        measured = compare_measures(self.plan.task, outcome)
        if not measured:
            return ""
        first = measured[0]
        return f"{first.measure.title} {first.comparison.cells[0].score.mean:.3f}, "

    def _known(self, jobs: Iterable[Job]) -> dict[bool, list[float]]:
        """Read what runs of earlier took, as a guess for those of now."""
        found: dict[bool, list[float]] = {True: [], False: []}
        for job in jobs:
            facts = RunFolder(job.place(self.plan, self.out)).read_facts()
            found[job.cell is None].append(float(facts.get("seconds", 0.0)))
        return found

    def _rest(self) -> str:
        """Guess what is left from the mean of what was done; nothing where a kind of run is not known yet."""
        seconds = 0.0
        for kind in (True, False):
            count = sum((job.cell is None) == kind for job in self.left.values())
            times = self.taken[kind] or self.known[kind]
            if count and not times:
                return ""
            seconds += count * sum(times) / max(1, len(times))
        return f"about {span(seconds / self.places)}"


def span(seconds: float) -> str:
    """Write a time span for progress lines.

    >>> span(3.2), span(75), span(5400)
    ('3 s', '1 min 15 s', '1 h 30 min')
    """
    whole = max(1, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


@contextlib.contextmanager
def _ended_as_interrupted() -> Iterator[None]:
    """Treat termination by the system as Ctrl-C: everything saves first."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
