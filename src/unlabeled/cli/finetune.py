"""``unlabeled finetune TASK LABELLED --init RUN|scratch --out RUN``."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from unlabeled.cli.options import (
    POSITION,
    command,
    go_on,
    groups,
    parameter,
    places,
    read_config,
    resolve,
)
from unlabeled.cli.render import console, counted, messages, print_json
from unlabeled.methods._base import SharedOptions
from unlabeled.training.settings import Settings, is_first_process
from unlabeled.transfer.finetune import Finetuned, finetune
from unlabeled.transfer.task import FinetuneOptions, TaskName


def finetune_command(typed: Sequence[str] = ()) -> Callable[..., Any]:
    """Make the command, with the options of fine-tuning, training and machine.

    Parameters
    ----------
    typed
        The words of the command line: what to type to go on is told in them.
    """

    def run(task: TaskName, labelled: Path, **given: Any) -> int:
        return _finetune(task, labelled, typed, **given)

    run.__doc__ = _finetune.__doc__
    shown = groups(FinetuneOptions, "Fine-tuning options", SharedOptions, Settings)
    return command(run, _fixed(), *shown)


def _fixed() -> list[inspect.Parameter]:
    return [
        parameter("task", TaskName, "What to learn from masks, labels or targets.", at=POSITION),
        parameter("labelled", Path, "Folder, data set or manifest of labelled scans.", at=POSITION),
        parameter("init", Path, "Run folder or weights file to start from, or `scratch`."),
        parameter("out", Path, "Run folder to make."),
        parameter(
            "like",
            Path | None,
            "From scratch: run or weights file whose network, patch and intensity rule are taken.",
            default=None,
        ),
        parameter(
            "test",
            bool,
            "Measure on the test subjects as well: once, when everything is decided.",
            default=False,
        ),
        *places(),
        parameter("json", bool, "Print the scores as JSON.", default=False),
    ]


def _finetune(task: TaskName, labelled: Path, typed: Sequence[str], **given: Any) -> int:
    """Train a task on labelled scans, from a pretrained encoder or from scratch.

    Without --epochs and --steps, training lasts 1000 steps however few scans are labelled; --epochs alone counts passes
    over the labelled scans.  Ctrl-C saves a checkpoint; --resume goes on from it.
    """
    known = {*FinetuneOptions.names(), *Settings.names(), "cache"}
    file = read_config(given.get("config"), known)
    options, from_options = resolve(FinetuneOptions, given, file)
    settings, from_settings = resolve(Settings, given, file)
    done = finetune(
        task,
        labelled,
        given["out"],
        init=given["init"],
        options=options,
        settings=settings,
        sources={**from_options, **from_settings},
        like=given.get("like"),
        cache=given.get("cache", file.get("cache")),
        test=given.get("test", False),
        again=go_on(typed),
    )
    if done.result.exit_reason == "interrupted":
        if is_first_process():
            messages().print(
                f"interrupted after {counted(done.result.steps, 'step')}; the checkpoint is complete. "
                f"Go on with:\n  {go_on(typed)}",
                soft_wrap=True,
                markup=False,
            )
        return 130
    if not is_first_process():
        return 0
    if given.get("json"):
        print_json(_as_json(done))
    elif not settings.quiet:
        _show(done)
    return 0


def _as_json(done: Finetuned) -> dict[str, Any]:
    return {
        "out": str(done.out),
        "subjects": done.subjects,
        "notes": list(done.notes),
        "metrics": {
            part: {name: [each.value, each.low, each.high] for name, each in found.measures.items()}
            for part, found in done.metrics.items()
        },
    }


def _show(done: Finetuned) -> None:
    out = console()

    def say(text: str) -> None:
        out.print(text, soft_wrap=True, markup=False)

    if done.loaded is not None:
        for line in done.loaded.lines():
            say(line)
    for note in done.notes:
        say(f"note: {note}")
    counts = done.subjects
    say(
        f"{counted(counts['train'], 'subject')} to train, {counts['val']} to validate, "
        f"{counts['test']} to test; {counted(done.result.steps, 'step')}"
        + (
            f"; {counted(done.quarantined, 'scan')} left out ({done.out}/quarantine.csv says why)"
            if done.quarantined
            else ""
        )
    )
    for part, found in done.metrics.items():
        say(f"{part}, {counted(found.subjects, 'subject')}: mean [95 % interval]")
        for name, interval in found.measures.items():
            unit = f" {found.unit}" if name.startswith("hd95") else ""
            say(f"  {name:<24} {interval}{unit}")
    say(f"scores by scan: {done.out}/metrics.csv")
    say(f"next: unlabeled predict {done.out} SCANS --out DIR")
