"""A worker process of a comparison: reads jobs as lines of JSON, performs them, answers with lines of JSON.

The first line names the folder of the comparison, the cache and the number of threads.  When its input ends - the comparison has
ended or was killed - the job at work saves and stops.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from dataclasses import asdict
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import torch

from unlabeled.benchmark.engines import GRACE
from unlabeled.benchmark.jobs import Job, perform
from unlabeled.benchmark.plan import Cell
from unlabeled.benchmark.plan_file import read_plan


def main() -> None:
    """Perform jobs until the input ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever else is printed is no answer
    signal.signal(signal.SIGTERM, _stop)
    told = json.loads(sys.stdin.readline())
    torch.set_num_threads(told["threads"])
    out, cache = Path(told["out"]), Path(told["cache"]) if told["cache"] else None
    plan = read_plan(out)
    lines: SimpleQueue[str] = SimpleQueue()
    busy, deaf = threading.Event(), threading.Event()
    threading.Thread(target=_listen, args=(lines, busy, deaf), daemon=True).start()
    while line := lines.get():
        busy.set()
        if deaf.is_set():
            break
        done = perform(plan, _job(json.loads(line)), out, cache)
        busy.clear()
        try:
            answers.write(json.dumps(asdict(done)) + "\n")
            answers.flush()
        except BrokenPipeError:  # nobody listens any more
            break
        if done.stopped:
            break
    os._exit(0)  # without waiting for threads of libraries


def _listen(lines: SimpleQueue[str], busy: threading.Event, deaf: threading.Event) -> None:
    """Pass jobs on; at the end of the input, ask the job at work to save, and do not wait for it forever."""
    for line in sys.stdin:
        lines.put(line)
    deaf.set()
    lines.put("")
    if busy.is_set():
        os.kill(os.getpid(), signal.SIGTERM)
        timer = threading.Timer(GRACE, os._exit, (1,))
        timer.daemon = True
        timer.start()


def _job(told: dict[str, Any]) -> Job:
    return Job(told["method"], None if told["cell"] is None else Cell(**told["cell"]))


def _stop(number: int, frame: Any) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
