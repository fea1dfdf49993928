"""Preparing many scans in worker processes: a bad scan is named, a killed worker survived, a full disk ends it."""

from __future__ import annotations

import os
import signal
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import connection, get_context
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path

from unlabeled.data.entry import write_entry
from unlabeled.data.preparation import Recipe, prepare_source
from unlabeled.data.scan import Source
from unlabeled.errors import ScanError

_JOBS_WORTH_A_PROCESS = 4  # starting one costs about as much as preparing so many small scans


@dataclass(frozen=True, slots=True)
class Job:
    """One scan to prepare, and the file to write."""

    key: str
    source: Source
    path: Path


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a job.

    Parameters
    ----------
    key
        Of the job.
    failure
        Fact and remedy, if the scan cannot be used.
    unwritten
        Why its entry could not be written; the scan itself is good.
    """

    key: str
    failure: tuple[str, str] | None = None
    unwritten: OSError | None = None


def work(jobs: Collection[Job], recipe: Recipe, workers: int) -> Iterator[Outcome]:
    """Do all jobs and give their outcomes as they come.

    Parameters
    ----------
    jobs
        Scans to prepare.
    recipe
        What is done to each.
    workers
        Processes at most; 0 works in this one.
    """
    rest = iter(jobs)
    workers = crew_size(workers, len(jobs))
    if workers > 0:
        yield from _work_in_processes(rest, recipe, workers)
    for job in rest:
        yield perform(job, recipe)


def crew_size(workers: int, jobs: int) -> int:
    """Say how many processes so many jobs are given to, of `workers` at most; 0 for this one.

    >>> crew_size(4, 100), crew_size(4, 9), crew_size(4, 3)
    (4, 2, 0)
    """
    return min(workers, jobs // _JOBS_WORTH_A_PROCESS)


def perform(job: Job, recipe: Recipe) -> Outcome:
    """Prepare one scan; nothing that is wrong with it is raised."""
    try:
        about, arrays = prepare_source(job.source, recipe)
    except ScanError as fault:
        return Outcome(job.key, (fault.fact, fault.remedy))
    except MemoryError:
        return Outcome(job.key, ("needs more memory than there is", "Use fewer --workers."))
    except (
        Exception
    ) as fault:  # a broken file can upset a decoder in any way; the run goes on without it
        return Outcome(job.key, (f"cannot be prepared: {type(fault).__name__}: {fault}", ""))
    try:
        write_entry(job.path, about, arrays)
    except OSError as fault:
        return Outcome(job.key, unwritten=fault)
    return Outcome(job.key)


def serve(line: Connection) -> None:
    """Run in a worker: receive the recipe, then jobs until the line closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    os.environ["OMP_NUM_THREADS"] = "1"  # the processes are the parallelism
    with suppress(EOFError, BrokenPipeError):
        recipe: Recipe = line.recv()
        line.send(None)
        while True:
            line.send(perform(line.recv(), recipe))


class _Worker:
    """A process and what it is doing."""

    def __init__(self, recipe: Recipe) -> None:
        context = get_context("spawn")  # forking would copy locks that other threads hold
        self.line, theirs = context.Pipe()
        self.process: SpawnProcess = context.Process(target=serve, args=(theirs,), daemon=True)
        self.process.start()
        theirs.close()
        self.job: Job | None = None
        self.ready = False
        with suppress(BrokenPipeError):
            self.line.send(recipe)

    def give(self, job: Job | None) -> None:
        """Send the next job, if there is one."""
        self.job = job
        if job is not None:
            with suppress(BrokenPipeError):  # noticed when its answer is awaited
                self.line.send(job)

    def stop(self) -> None:
        """End the process now; an entry that it writes is left unfinished, which nobody sees."""
        self.process.terminate()
        self.process.join()
        self.line.close()


def _work_in_processes(rest: Iterator[Job], recipe: Recipe, count: int) -> Iterator[Outcome]:
    """Keep processes busy; leaves `rest` unfinished only where processes cannot be started."""
    crew = [_Worker(recipe) for _ in range(count)]
    try:
        while crew:
            lines = {worker.line: worker for worker in crew}
            for line in connection.wait(list(lines)):
                worker = lines[line]  # type: ignore[index]
                try:
                    outcome = worker.line.recv()
                except (EOFError, ConnectionResetError):
                    crew.remove(worker)
                    worker.stop()
                    if worker.job is not None:
                        yield Outcome(worker.job.key, _death(worker))
                    if worker.ready:
                        crew.append(_Worker(recipe))
                    continue
                worker.ready = True
                worker.give(next(rest, None))
                if worker.job is None:
                    crew.remove(worker)
                    worker.stop()
                if outcome is not None:
                    yield outcome
    finally:
        for worker in crew:
            worker.stop()


def _death(worker: _Worker) -> tuple[str, str]:
    fact = f"ended the process that prepared it (exit code {worker.process.exitcode}), perhaps for lack of memory"
    return fact, "Use fewer --workers."
