"""A trial of a run in a process of its own, whose memory is not this one's history."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

from unlabeled import errors
from unlabeled.errors import DEBUG, RunError, UnlabeledError, explain_exception
from unlabeled.training.excerpt import Excerpt, PreparationTrial
from unlabeled.training.log import RunFolder
from unlabeled.training.pretrain import WHOLE, Job, carry_out
from unlabeled.training.state import Result
from unlabeled.training.trial import PhaseTrial, Trial

psutil: Any = import_module("psutil")  # it carries no types

REQUEST, ANSWER = "request.pickle", "answer.json"
SAYS = "trial: "  # how a line of the process that a person may see begins
FOR_PREPARATION = 0.25  # share of the seconds that preparing scans may take
GLANCE = 0.05  # [s] between two looks at the memory


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What a trial measured; times in seconds, sizes in bytes.

    Parameters
    ----------
    scans, left_out
        Scans that the run would use and leave out, as far as few of them tell.
    start
        From starting the program to preparing scans: imports and the index.
    preparation
        Of all scans.
    setup
        From prepared scans to the first phase: needs, networks, files of the run.
    phases
        One entry a phase.
    finish
        From the last phase to the end: writing the encoder.
    last_bytes, best_bytes
        Checkpoints that stand at the end; 0 where there is none.
    encoder_bytes
        What is carried over, and the whole method where it makes something of a scan.
    board_bytes
        TensorBoard's, for each line of the log.
    other_bytes
        Options, facts, quarantine.
    memory
        Most memory of the process with its workers.
    gpu_memory
        Most memory that torch held on a CUDA device; None without.
    """

    scans: int
    left_out: int
    start: float
    preparation: PreparationTrial
    setup: float
    phases: tuple[PhaseTrial, ...]
    finish: float
    last_bytes: int
    best_bytes: int
    encoder_bytes: int
    board_bytes: float
    other_bytes: int
    memory: int = 0
    gpu_memory: int | None = None

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> Measured:
        """Make it of what JSON keeps."""
        phases = tuple(PhaseTrial(**each) for each in plain["phases"])
        preparation = PreparationTrial(**plain["preparation"])
        return cls(**{**plain, "phases": phases, "preparation": preparation})


def rehearse(
    job: Job, place: Path, seconds: float, say: Callable[[str], None], began: float
) -> Measured:
    """Try a run in this process.

    Parameters
    ----------
    job
        The run; its folder is not touched.
    place
        Empty folder for everything that the trial writes.
    seconds
        For preparing scans and for steps [s]; scoring and writing come on top.
    say
        Told what is being done.
    began
        When the program was started [s since 1970].

    Raises
    ------
    UnlabeledError
        What the run itself would raise before and during its first steps.
    """
    marks: dict[str, float] = {}
    excerpt = Excerpt(place / "prepared", FOR_PREPARATION * seconds)
    folder = RunFolder(place / "run")
    trials: list[Trial] = []

    def prepare(*given: Any) -> Any:
        marks["indexed"] = time.time()
        say("preparing a few scans")
        prepared = excerpt.prepare(*given)
        marks["prepared"] = time.time()
        return prepared

    def learn(*given: Any, fabric: Any, arithmetic: Any, title: str) -> Result:
        marks["ready"] = time.time()
        loop = Trial(*given, fabric, arithmetic, title, seconds=seconds, say=say)
        trials.append(loop)
        result = loop.run()
        marks["learnt"] = time.time()
        return result

    say("looking at the scans")
    settings = replace(job.settings, resume=False, quiet=True)
    done = carry_out(replace(job, folder=folder, settings=settings), prepare=prepare, learn=learn)
    ended = time.time()
    sizes = {
        path.relative_to(folder.path).as_posix(): path.stat().st_size
        for path in folder.path.rglob("*")
        if path.is_file()
    }
    last, best, encoder = (
        sizes.pop(path.relative_to(folder.path).as_posix(), 0)
        for path in (folder.last, folder.best, folder.encoder)
    )
    board = sum(size for name, size in sizes.items() if name.startswith("events."))
    return Measured(
        scans=done.scans,
        left_out=done.quarantined,
        start=marks["indexed"] - began,
        preparation=excerpt.measured,
        setup=marks["ready"] - marks["prepared"],
        phases=tuple(trials[0].trials),
        finish=ended - marks["learnt"],
        last_bytes=last,
        best_bytes=best,
        encoder_bytes=encoder + sizes.pop(WHOLE, 0),
        board_bytes=board / max(1, trials[0].lines),
        other_bytes=sum(
            size
            for name, size in sizes.items()
            if "/" not in name and not name.startswith(("events.", "log."))
        ),
        gpu_memory=trials[0].gpu_memory,
    )


def rehearse_aside(job: Job, seconds: float, say: Callable[[str], None]) -> Measured:
    """Try a run in a new process, watch its memory, and leave nothing behind.

    Raises
    ------
    UnlabeledError
        What the run itself would raise; or the trial was ended, as a rule for lack of memory.
    """
    place = Path(tempfile.mkdtemp(prefix="unlabeled-trial-"))
    process: subprocess.Popen[str] | None = None
    try:
        with (place / REQUEST).open("wb") as file:
            pickle.dump((job, seconds, time.time()), file)
        process = subprocess.Popen(  # noqa: S603 (its own module; it lives as long as the line to it)
            [sys.executable, "-m", __name__, str(place)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C is this process's to handle
        )
        memory = _Memory(process.pid)
        memory.start()
        for line in process.stdout or ():
            if line.startswith(SAYS):
                say(line.removeprefix(SAYS).strip())
        code = process.wait()
        memory.stop()
        return replace(read_answer(place / ANSWER, code), memory=memory.most)
    finally:
        if process is not None:
            _end(process)
        shutil.rmtree(place, ignore_errors=True)


class _Memory(threading.Thread):
    """Looks at the memory of a process and its workers until it is stopped or the process has ended.

    The process counts with the most that was ever resident, each worker with what it shares with no one: the pages of
    its parent, which a forked worker reads, are there once.
    """

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.pid, self.most = pid, 0
        self.ended = threading.Event()

    def run(self) -> None:
        try:
            process = psutil.Process(self.pid)
            while not self.ended.wait(GLANCE):
                self.most = max(self.most, memory_of(process))
        except psutil.Error:
            return

    def stop(self) -> None:
        """Stop looking."""
        self.ended.set()
        self.join()


def memory_of(process: Any) -> int:
    """Add up what a process needed at most so far, and what its workers need now [byte].

    Raises
    ------
    psutil.Error
        It has ended.
    """
    total = _most_resident(process)
    for worker in process.children(recursive=True):
        try:
            total += int(worker.memory_full_info().uss)
        except psutil.Error:  # ended in between, or another's
            continue
    return total


def _most_resident(process: Any) -> int:
    """Read the high-water mark where the system keeps one, else what is resident now [byte]."""
    try:
        for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return int(process.memory_info().rss)


def read_answer(path: Path, code: int) -> Measured:
    """Read what a trial that ended with `code` wrote.

    Raises
    ------
    UnlabeledError
        What it met; or a signal ended it.
    """
    try:
        answer = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        if code < 0:
            raise RunError(
                f"the trial was ended by signal {-code}, as a rule because the memory was used up",
                "Give a smaller --batch-size or --patch-size, a smaller --encoder, or fewer --workers.",
            ) from None
        raise RuntimeError(f"the trial ended with code {code} and told nothing") from None
    if "error" in answer:
        kind: type[UnlabeledError] = getattr(errors, answer["error"])
        raise kind(answer["fact"], answer["remedy"])
    return Measured.from_plain(answer)


def _end(process: subprocess.Popen[str]) -> None:
    """End the process and its workers, if they have not ended by themselves."""
    if process.poll() is None:
        whole = psutil.Process(process.pid)
        for each in (*whole.children(recursive=True), whole):
            try:
                each.kill()
            except psutil.Error:  # it ended in between
                continue
        process.wait()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            stream.close()


class _Heed(threading.Thread):
    """Cleans up and ends this process when the line to whoever asked for the trial breaks."""

    def __init__(self, place: Path) -> None:
        super().__init__(daemon=True)
        self.place = place
        self.alone = threading.Event()

    def run(self) -> None:
        os.read(
            0, 1
        )  # not sys.stdin: a loader's worker, forked meanwhile, would wait for its lock for ever
        self.alone.set()
        for _ in range(100):  # the trial may be writing
            shutil.rmtree(self.place, ignore_errors=True)
            if not self.place.exists():
                break
            time.sleep(GLANCE)
        os._exit(1)


def main(place: Path) -> None:
    """Do the trial that the folder's request asks for, and write the answer beside it."""
    heed = _Heed(place)
    heed.start()
    with (place / REQUEST).open("rb") as file:
        job, seconds, began = pickle.load(file)  # noqa: S301 (written by the process that started this one)

    def say(text: str) -> None:
        sys.stdout.write(f"{SAYS}{text}\n")
        sys.stdout.flush()

    try:
        answer = asdict(rehearse(job, place, seconds, say, began))
    except Exception as fault:
        if os.environ.get(DEBUG):
            traceback.print_exc()
        told = explain_exception(fault)
        answer = {"error": type(told).__name__, "fact": told.fact, "remedy": told.remedy}
    if heed.alone.is_set():
        heed.join()  # it ends this process
    (place / ANSWER).write_text(json.dumps(answer), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
