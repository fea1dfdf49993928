"""Jobs on a Ray cluster: one task each, resources for each, begun again where a machine dies.

Every machine must see the comparison's folder, the scans and the cache under the same paths, and have Unlabeled installed.  Results
travel as the files of the run folders; between tasks only a line goes on what became of them.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from unlabeled.benchmark.engines import GRACE
from unlabeled.benchmark.jobs import Done, Job, not_run, perform, require_shared
from unlabeled.benchmark.plan import Plan
from unlabeled.errors import OptionError, RunError, UnlabeledError


class Cluster:
    """Performs jobs on a Ray cluster, a cell as soon as the pretraining that it needs is done.

    Parameters
    ----------
    address
        Of the cluster; ``$RAY_ADDRESS``, or a new one on this machine alone, when absent.
    cpus, gpus, memory
        What each job sets aside: cores, GPUs, memory [GB].
    retries
        How often a job is begun again whose worker or machine died.

    Raises
    ------
    UnlabeledError
        Ray is not installed, or a number is outside its range.
    """

    def __init__(
        self,
        address: str | None = None,
        *,
        cpus: float = 1.0,
        gpus: float = 0.0,
        memory: float | None = None,
        retries: int = 3,
    ) -> None:
        for name, value in (("cpus", cpus), ("gpus", gpus), ("memory", memory or 0.0)):
            if value < 0:
                raise OptionError(
                    f"--{name}-per-cell is {value:g}, outside its range", "Give 0 or more."
                )
        if retries < 0:
            raise OptionError(f"--retries is {retries}, outside its range", "Give 0 or more.")
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would report to its makers
        try:
            import ray
        except ImportError:
            raise RunError(
                "--engine ray needs Ray, which is not installed", "pip install 'unlabeled[ray]'"
            ) from None
        self.ray: Any = ray
        self.address = address
        self.wants = {"CPU": cpus, "GPU": gpus, "memory": (memory or 0.0) * 1e9}
        self.retries = retries
        self.connected = False

    @property
    def places(self) -> int:
        """How many jobs the machines of now do at a time."""
        self._connect()
        return max(1, sum(self._places_of(node) for node in self._nodes()))

    def run(
        self, plan: Plan, jobs: tuple[Job, ...], out: Path, cache: Path | None
    ) -> Iterator[Done]:
        """Perform jobs; see `Engine`."""
        self._connect()
        try:
            self._require_room()
            yield from self._run(plan, jobs, out.absolute(), cache and cache.absolute())
        finally:
            if self.connected:
                self.ray.shutdown()
                self.connected = False

    def _run(
        self, plan: Plan, jobs: tuple[Job, ...], out: Path, cache: Path | None
    ) -> Iterator[Done]:
        task = self.ray.remote(_perform).options(
            num_cpus=self.wants["CPU"],
            num_gpus=self.wants["GPU"],
            memory=self.wants["memory"] or None,
            max_retries=self.retries,
        )
        threads = max(1, int(self.wants["CPU"]))
        shared = self.ray.put(plan)
        begun: dict[str, Any] = {}
        for job in jobs:
            before = begun.get(job.needs or "")
            begun[job.name] = task.remote(shared, job, before, out, cache, threads)
        waiting = {reference: job for job, reference in zip(jobs, begun.values(), strict=True)}
        failed: dict[str, Done] = {}
        try:
            while waiting:
                for reference in self.ray.wait(list(waiting), num_returns=1)[0]:
                    job = waiting.pop(reference)
                    done = self._fetch(job, reference, failed.get(job.needs or ""))
                    if done.stopped:
                        raise KeyboardInterrupt
                    if done.fault:
                        failed[job.name] = done
                    yield done
        except BaseException:
            for reference in waiting:
                self.ray.cancel(reference, force=False)
            if waiting:
                self.ray.wait(list(waiting), num_returns=len(waiting), timeout=GRACE)
            raise

    def _fetch(self, job: Job, reference: Any, before: Done | None) -> Done:
        """Get what became of a job; what Ray could not do is its fault."""
        errors = self.ray.exceptions
        try:
            done: Done = self.ray.get(reference)
        except errors.RayError as fault:
            if before is not None:
                return not_run(job, before)
            cause = getattr(fault, "cause", None)
            if isinstance(cause, UnlabeledError):
                return Done(job.name, fault=str(cause), persons=cause.exit_code == 2)
            if isinstance(fault, errors.OutOfMemoryError):
                why = "its machine's memory was used up"
            else:
                why = f"its worker or machine died ({type(fault).__name__})"
            remedy = (
                "Type the same command again: it goes on there. A larger --memory-per-cell or --cpus-per-cell leaves "
                "each run more room."
            )
            times = f", {self.retries + 1} times" if self.retries else ""
            return Done(job.name, fault=f"{why}{times}\n  {remedy}", persons=False)
        return done

    def _connect(self) -> None:
        if self.connected:
            return
        address = self.address or os.environ.get("RAY_ADDRESS")
        here = {} if address else {"include_dashboard": False}
        main = threading.current_thread() is threading.main_thread()
        before = signal.getsignal(signal.SIGTERM) if main else None
        try:
            self.ray.init(address=address, log_to_driver=False, logging_level="ERROR", **here)
        except (ConnectionError, ValueError, RuntimeError) as fault:
            raise RunError(
                f"no Ray cluster answers at {address or 'this machine'} ({' '.join(str(fault).split())[:200]})",
                "Start one with `ray start --head`, and give its --address; or leave --address out.",
            ) from None
        finally:
            if before is not None:
                signal.signal(signal.SIGTERM, before)  # Ray's own would end without saving
        self.connected = True

    def _nodes(self) -> list[dict[str, float]]:
        return [node["Resources"] for node in self.ray.nodes() if node["Alive"]]

    def _places_of(self, node: dict[str, float]) -> int:
        """Count the jobs that one machine has room for."""
        wants = {name: amount for name, amount in self.wants.items() if amount}
        return int(
            min((node.get(name, 0.0) // amount for name, amount in wants.items()), default=1)
        )

    def _require_room(self) -> None:
        """Refuse resources that no machine of the cluster has: Ray would wait for one forever."""
        nodes = self._nodes()
        if any(self._places_of(node) for node in nodes):
            return
        most = {
            name: max((node.get(name, 0.0) for node in nodes), default=0.0) for name in self.wants
        }
        raise RunError(
            f"no machine of the cluster has {self.wants['CPU']:g} cores, {self.wants['GPU']:g} GPUs and "
            f"{self.wants['memory'] / 1e9:g} GB for a run; the most are {most['CPU']:g}, {most['GPU']:g} and "
            f"{most['memory'] / 1e9:.3g} GB",
            "Give smaller --cpus-per-cell, --gpus-per-cell and --memory-per-cell, or add machines first.",
        )


def _perform(
    plan: Plan, job: Job, before: Done | None, out: Path, cache: Path | None, threads: int
) -> Done:
    """Perform a job on whatever machine it comes to."""
    if before is not None and before.fault:
        return not_run(job, before)
    if before is not None and before.stopped:
        return Done(job.name, stopped=True)
    require_shared(out)
    torch.set_num_threads(threads)
    return perform(plan, job, out, cache)
