"""The jobs of a plan: one run each, done once, gone on with where it stopped; a fault is told, never raised."""

from __future__ import annotations

import contextlib
import csv
import io
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from unlabeled.benchmark.plan import (
    SCRATCH,
    Cell,
    Outcome,
    Plan,
    collect,
    place_of,
    pretraining_of,
    show_fraction,
)
from unlabeled.errors import RunError, explain_exception
from unlabeled.training.checkpoint import write_atomically
from unlabeled.training.log import RunFolder
from unlabeled.training.pretrain import pretrain
from unlabeled.training.state import Result
from unlabeled.transfer.finetune import finetune

LOCKS = ".locks"  # folder of a comparison: one file a run that somebody is at
_PATIENCE = 900.0  # seconds that a job waits for another process to let go of its run


@dataclass(frozen=True, slots=True)
class Job:
    """One run of a plan: the pretraining of a method, or a cell.

    Parameters
    ----------
    method
        Slug, or ``scratch``.
    cell
        None for a pretraining.
    """

    method: str
    cell: Cell | None = None

    @property
    def name(self) -> str:
        """What messages and ``failed.csv`` call it: the last part of its folder."""
        return pretraining_of(self.method) if self.cell is None else self.cell.name

    @property
    def needs(self) -> str | None:
        """Name of the job that must have been done before."""
        waits = self.cell is not None and self.method != SCRATCH
        return pretraining_of(self.method) if waits else None

    @property
    def told(self) -> str:
        """Name it for people."""
        if self.cell is None:
            return f"pretraining of {self.method}"
        return f"{self.method}, labels: {show_fraction(self.cell.fraction)}, seed {self.cell.seed}"

    def place(self, plan: Plan, out: Path) -> Path:
        """Name its run folder."""
        return out / self.name if self.cell is None else place_of(plan, self.cell, out)


@dataclass(frozen=True, slots=True)
class Done:
    """What became of one job.

    Parameters
    ----------
    name
        Of the job.
    seconds
        How long this attempt took.
    fault
        Why it could not be done: the fact, and below it the remedy; empty where it was done.
    persons
        Whether the person can mend the fault.
    stopped
        Whether it was interrupted, has saved, and can be gone on with.
    """

    name: str
    seconds: float = 0.0
    fault: str = ""
    persons: bool = True
    stopped: bool = False


class Engine(Protocol):
    """Whatever performs jobs: each once, a cell after the pretraining that it starts from."""

    @property
    def places(self) -> int:
        """How many jobs it does at a time."""

    def run(
        self, plan: Plan, jobs: tuple[Job, ...], out: Path, cache: Path | None
    ) -> Iterator[Done]:
        """Perform jobs, and tell of each when it has ended.

        Raises
        ------
        KeyboardInterrupt
            After every job at work has saved, where the person interrupts.
        """


class Here:
    """Performs one job after the other in this process."""

    places = 1

    def run(
        self, plan: Plan, jobs: tuple[Job, ...], out: Path, cache: Path | None
    ) -> Iterator[Done]:
        """Perform jobs in their order; see `Engine`."""
        failed: dict[str, Done] = {}
        for job in jobs:
            before = failed.get(job.needs or "")
            done = perform(plan, job, out, cache) if before is None else not_run(job, before)
            if done.stopped:
                raise KeyboardInterrupt
            if done.fault:
                failed[job.name] = done
            yield done


def jobs_of(plan: Plan) -> tuple[Job, ...]:
    """List the jobs of a plan in a good order, each after what it needs.

    One cell of scratch comes first: what is wrong with the labels or the fine-tuning shows before the pretrainings.
    """
    cells = [Job(cell.method, cell) for cell in plan.cells]
    first = next(job for job in cells if job.method == SCRATCH)
    return (first, *(Job(slug) for slug in plan.methods), *(j for j in cells if j is not first))


def is_done(plan: Plan, job: Job, out: Path) -> bool:
    """Say whether a job's run has finished."""
    return bool(RunFolder(job.place(plan, out)).read_facts().get("finished"))


def perform(plan: Plan, job: Job, out: Path, cache: Path | None) -> Done:
    """Do a job, or go on with it; whatever fails is told."""
    began = time.monotonic()
    run = job.place(plan, out)
    try:
        with held(out / LOCKS / job.name, _PATIENCE):
            if not is_done(plan, job, out):
                resume = (run / "run.json").exists()
                settings = {"quiet": True, **plan.settings, "resume": resume}
                result = _train(plan, job, run, out, cache, settings)
                if result.exit_reason == "interrupted":
                    return Done(job.name, time.monotonic() - began, stopped=True)
    except KeyboardInterrupt:
        return Done(job.name, time.monotonic() - began, stopped=True)
    except Exception as fault:
        told = explain_exception(fault)
        return Done(job.name, time.monotonic() - began, str(told), told.exit_code == 2)
    return Done(job.name, time.monotonic() - began)


def not_run(job: Job, before: Done) -> Done:
    """Say of a cell that its pretraining has failed."""
    return Done(job.name, fault=f"not run, as {before.name} failed", persons=before.persons)


def run_plan(
    plan: Plan,
    out: Path,
    *,
    cache: Path | None = None,
    say: Callable[[str], None] = lambda text: None,
    engine: Engine | None = None,
    tell: Callable[[Job, Done], None] = lambda job, done: None,
) -> Outcome:
    """Run what is missing of a plan, and collect everything.

    A job that fails is named in the outcome and in ``failed.csv``, and stops nothing; a pretraining that fails takes its
    cells with it.

    Parameters
    ----------
    plan
        What is compared.
    out
        Folder of the comparison; what has finished in it is taken as it is.
    cache
        Folder of prepared scans.
    say
        Called with a line about each job.
    engine
        Who performs them; without it, this process, one after the other.
    tell
        Called with each job that has ended.

    Raises
    ------
    KeyboardInterrupt
        The person interrupts; every job has saved.
    """
    out.mkdir(parents=True, exist_ok=True)
    jobs = jobs_of(plan)
    missing = tuple(job for job in jobs if not is_done(plan, job, out))
    by_name = {job.name: job for job in missing}
    failed: dict[str, Done] = {}
    write_failed(out, ())
    for number, done in enumerate((engine or Here()).run(plan, missing, out, cache), start=1):
        job = by_name[done.name]
        if done.fault:
            failed[done.name] = done
            write_failed(out, ((by_name[name], each) for name, each in failed.items()))
        say(
            f"{number} of {len(missing)}: {job.told}"
            + (f" failed: {done.fault}" * bool(done.fault))
        )
        tell(job, done)
    return collect(plan, out, {name: done.fault for name, done in failed.items()})


def write_failed(out: Path, rows: Iterable[tuple[Job, Done]]) -> None:
    """Write ``failed.csv``: one row a job that could not be done, none where all were."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["run", "method", "fraction", "seed", "whose fault", "message"])
    for job, done in rows:
        where = ("", "") if job.cell is None else (show_fraction(job.cell.fraction), job.cell.seed)
        whose = "the person's" if done.persons else "ours or the machine's"
        writer.writerow([job.name, job.method, *where, whose, done.fault])
    write_atomically(out / "failed.csv", text.getvalue().encode())


@contextlib.contextmanager
def held(path: Path, patience: float = 0.0) -> Iterator[None]:
    """Hold a file that one process at a time can hold; the system lets go of it when the process dies.

    Parameters
    ----------
    path
        The file; made where missing.
    patience
        Seconds to wait for whoever holds it.

    Raises
    ------
    RunError
        It is held for longer.
    """
    try:
        import fcntl
    except ImportError:  # Windows has no such locks; nothing else depends on them
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    until = time.monotonic() + patience
    with path.open("a") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= until:
                    raise RunError(
                        f"another process is at {path.parent.parent} ({path.name})",
                        "Wait for it to end, or end it; or give another --out.",
                    ) from None
                time.sleep(0.1)
            except OSError:  # a file system without locks
                break
        yield


def _train(
    plan: Plan,
    job: Job,
    run: Path,
    out: Path,
    cache: Path | None,
    settings: Mapping[str, Any],
) -> Result:
    if job.cell is None:
        options = plan.methods[job.method]
        return pretrain(job.method, plan.scans, run, cache=cache, **{**options, **settings}).result
    scratch = job.method == SCRATCH
    return finetune(
        plan.task,
        plan.labelled,
        run,
        init=SCRATCH if scratch else out / pretraining_of(job.method),
        like=plan.scratch_like() if scratch else None,
        cache=cache,
        test=plan.part == "test",
        label_fraction=job.cell.fraction,
        seed=job.cell.seed,
        **{**plan.finetuning, **settings},
    ).result


def require_shared(out: Path) -> None:
    """Refuse to work where the comparison's folder is not seen.

    Raises
    ------
    UnlabeledError
        It is not there on this machine.
    """
    if not (out / "plan.toml").is_file():
        raise RunError(
            f"{out} is not seen by every machine of the cluster",
            "Give --out, SCANS, LABELLED and --cache in folders that all machines share.",
        )
