"""Jobs in worker processes of this machine: cores are shared out, and a worker that dies takes its one job with it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import asdict
from pathlib import Path
from queue import SimpleQueue
from typing import IO

import torch

from unlabeled.benchmark.jobs import Done, Job, not_run
from unlabeled.benchmark.plan import Plan
from unlabeled.errors import OptionError

GRACE = 120.0  # seconds that an interrupted job has to save
_TAIL = 300  # characters of a dead worker's last words


class Processes:
    """Performs jobs in so many processes, each with its share of the cores and one of the GPUs.

    Parameters
    ----------
    count
        How many at a time.
    """

    def __init__(self, count: int = 1) -> None:
        if count < 1:
            raise OptionError(f"--jobs is {count}, outside its range", "Give --jobs at least 1.")
        self.count = count

    @property
    def places(self) -> int:
        """How many jobs are done at a time."""
        return self.count

    def run(
        self, plan: Plan, jobs: tuple[Job, ...], out: Path, cache: Path | None
    ) -> Iterator[Done]:
        """Perform jobs; see `Engine`."""
        if not jobs:
            return
        count = min(self.count, len(jobs))
        threads = max(1, torch.get_num_threads() // self.count)
        gpus = torch.cuda.device_count()
        seen = os.environ.get("CUDA_VISIBLE_DEVICES")
        workers = [
            _Worker(out, cache, threads, own_gpu(number, gpus, seen)) for number in range(count)
        ]
        idle: SimpleQueue[_Worker] = SimpleQueue()
        for worker in workers:
            idle.put(worker)

        def work(job: Job) -> Done:
            worker = idle.get()
            try:
                return worker.do(job)
            finally:
                idle.put(worker)

        pool = ThreadPoolExecutor(count)
        try:
            yield from _in_order(jobs, count, lambda job: pool.submit(work, job))
        except BaseException:
            for worker in workers:
                worker.interrupt()
            raise
        finally:
            for worker in workers:
                worker.end()
            pool.shutdown()


def _in_order(
    jobs: tuple[Job, ...], count: int, submit: Callable[[Job], Future[Done]]
) -> Iterator[Done]:
    """Start jobs as places become free, each after what it needs; a cell whose pretraining failed is not started."""
    names = {job.name for job in jobs}
    ended: dict[str, Done] = {}
    waiting = deque(jobs)
    running: dict[Future[Done], Job] = {}
    while waiting or running:
        for job in tuple(waiting):
            before = ended.get(job.needs or "")
            if before is None and job.needs in names:
                continue
            if before is not None and before.fault:
                waiting.remove(job)
                yield not_run(job, before)
            elif len(running) < count:
                waiting.remove(job)
                running[submit(job)] = job
        for future in wait(running, return_when=FIRST_COMPLETED).done:
            job = running.pop(future)
            done = future.result()
            if done.stopped:
                raise KeyboardInterrupt
            ended[job.name] = done
            yield done


def own_gpu(number: int, count: int, seen: str | None) -> dict[str, str]:
    """Give each worker one of several CUDA devices, in turn.

    Parameters
    ----------
    number
        Of the worker.
    count
        Devices there.
    seen
        ``CUDA_VISIBLE_DEVICES`` of this process; None where it is unset.

    >>> own_gpu(3, 2, None), own_gpu(1, 2, "4,7"), own_gpu(0, 1, None)
    ({'CUDA_VISIBLE_DEVICES': '1'}, {'CUDA_VISIBLE_DEVICES': '7'}, {})
    """
    if count < 2:
        return {}
    names = seen.split(",") if seen else [str(device) for device in range(count)]
    return {"CUDA_VISIBLE_DEVICES": names[number % count]}


class _Worker:
    """One process that is given job after job; where it has died, the next job gets a new one.

    Parameters
    ----------
    out
        Folder of the comparison, with its plan.
    cache
        Folder of prepared scans.
    threads
        Its share of the cores.
    environment
        Variables of its own.
    """

    def __init__(
        self, out: Path, cache: Path | None, threads: int, environment: Mapping[str, str]
    ) -> None:
        self.environment = {**environment, "OMP_NUM_THREADS": str(threads)}
        self.told = {
            "out": str(out),
            "cache": None if cache is None else str(cache),
            "threads": threads,
        }
        self.process: subprocess.Popen[str] | None = None
        self.words: IO[bytes] | None = None
        self.interrupted = False

    def do(self, job: Job) -> Done:
        """Perform one job there; a death becomes its fault."""
        if self.interrupted:
            return Done(job.name, stopped=True)
        cell = None if job.cell is None else asdict(job.cell)
        answer = ""
        with contextlib.suppress(BrokenPipeError):
            self._say({"method": job.method, "cell": cell})
            if self.process is not None and self.process.stdout is not None:
                answer = self.process.stdout.readline()
        if answer:
            return Done(**json.loads(answer))
        if self.interrupted:
            return Done(job.name, stopped=True)
        return Done(job.name, fault=self._death(), persons=False)

    def interrupt(self) -> None:
        """Ask the job at work to save and stop."""
        self.interrupted = True
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)

    def end(self) -> None:
        """Close its ears, upon which it ends; one that does not end is killed."""
        if self.process is None:
            return
        if self.process.stdin is not None and not self.interrupted:  # else it is ending already
            with contextlib.suppress(BrokenPipeError):
                self.process.stdin.close()
        try:
            self.process.wait(GRACE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._forget()

    def _say(self, line: object) -> None:
        lines = [line]
        if self.process is None or self.process.poll() is not None:
            self._start()
            lines = [self.told, line]
        if self.process is not None and self.process.stdin is not None:
            self.process.stdin.write("".join(json.dumps(each) + "\n" for each in lines))
            self.process.stdin.flush()

    def _start(self) -> None:
        self._forget()
        self.words = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `_forget`
        self.process = subprocess.Popen(
            [sys.executable, "-m", "unlabeled.benchmark.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.words,
            text=True,
            env={**os.environ, **self.environment},
            start_new_session=True,  # Ctrl-C reaches the comparison alone, which passes it on
        )

    def _forget(self) -> None:
        """Close what is left of a process that has ended."""
        if self.process is not None:
            for pipe in (self.process.stdin, self.process.stdout):
                if pipe is not None:
                    with contextlib.suppress(BrokenPipeError):
                        pipe.close()
        if self.words is not None:
            self.words.close()
        self.process, self.words = None, None

    def _death(self) -> str:
        """Say how the process died, with its last words."""
        if self.process is None or self.words is None:
            return "its worker process could not be started"
        code = self.process.wait()
        self.words.seek(0)
        last = " ".join(self.words.read().decode(errors="replace").split())[-_TAIL:]
        how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
        hint = " (the system kills what uses up the memory)" if code == -signal.SIGKILL else ""
        remedy = "Type the same command again: it goes on there. Fewer --jobs or a smaller --batch-size need less memory."
        return f"its worker process {how}{hint}{': ' + last if last else ''}\n  {remedy}"
