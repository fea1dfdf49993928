"""``unlabeled finetune TASK LABELLED --init RUN|scratch --out RUN``."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from unlabeled.cli.options import command, keywords, read_config, resolve
from unlabeled.cli.render import console, messages, print_json
from unlabeled.methods._base import SharedOptions
from unlabeled.training.settings import Settings
from unlabeled.transfer.finetune import Finetuned
from unlabeled.transfer.start import TaskName
from unlabeled.transfer.task import FinetuneOptions

POSITION = inspect.Parameter.POSITIONAL_ONLY
NAMED = inspect.Parameter.KEYWORD_ONLY


def finetune_command() -> Callable[..., Any]:
    """Make the command, with the options of fine-tuning, training and machine."""
    shared = SharedOptions.names()
    every = keywords(FinetuneOptions, "Fine-tuning options", order=0)
    own = [p for p in every if p.name not in shared]
    common = [p for p in keywords(FinetuneOptions, "Training options") if p.name in shared]
    machine = keywords(Settings, "Machine options", order=2)
    return command(_finetune, _fixed(), own, common, machine)


def _fixed() -> list[inspect.Parameter]:
    return [
        _parameter("task", TaskName, "What to learn from masks, labels or targets.", POSITION),
        _parameter("labelled", Path, "Folder, data set or manifest of labelled scans.", POSITION),
        _parameter("init", Path, "Run folder or weights file to start from, or `scratch`.", NAMED),
        _parameter("out", Path, "Run folder to make.", NAMED),
        _parameter(
            "like",
            Path | None,
            "From scratch: run or weights file whose network, patch and intensity rule are taken.",
            NAMED,
            None,
        ),
        _parameter(
            "test",
            bool,
            "Measure on the test subjects as well: once, when everything is decided.",
            NAMED,
            False,
            negative=(),
        ),
        _parameter(
            "cache",
            Path | None,
            "Folder of prepared scans; the user's cache folder when absent.",
            NAMED,
            None,
        ),
        _parameter(
            "config",
            Path | None,
            "TOML file with options; unlabeled.toml in this folder when absent.",
            NAMED,
            None,
        ),
        _parameter("json", bool, "Print the scores as JSON.", NAMED, False, negative=()),
    ]


def _parameter(
    name: str,
    kind: Any,
    text: str,
    how: Any,
    default: Any = inspect.Parameter.empty,
    negative: tuple[str, ...] | None = None,
) -> inspect.Parameter:
    marked = Annotated[kind, Parameter(help=text, negative=negative)]
    return inspect.Parameter(name, how, default=default, annotation=marked)


def _finetune(task: TaskName, labelled: Path, **given: Any) -> int:
    """Train a task on labelled scans, from a pretrained encoder or from scratch.

    Without --epochs and --steps, training lasts 1000 steps however few scans are labelled; --epochs alone counts passes
    over the labelled scans.  Ctrl-C saves a checkpoint; --resume goes on from it.
    """
    from unlabeled.transfer.finetune import finetune

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
    )
    if done.result.exit_reason == "interrupted":
        messages().print(
            f"interrupted after {done.result.steps} steps; the checkpoint is complete. Go on with:\n"
            f"  unlabeled finetune {task} {labelled} --init {given['init']} --out {given['out']} --resume",
            soft_wrap=True,
            markup=False,
        )
        return 130
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
        f"{counts['train']} subjects to train, {counts['val']} to validate, {counts['test']} to test; "
        f"{done.result.steps} steps"
        + (
            f"; {done.quarantined} scans left out ({done.out}/quarantine.csv says why)"
            if done.quarantined
            else ""
        )
    )
    for part, found in done.metrics.items():
        say(f"{part}, {found.subjects} subjects: mean [95 % interval]")
        for name, interval in found.measures.items():
            unit = f" {found.unit}" if name.startswith("hd95") else ""
            say(f"  {name:<24} {interval}{unit}")
    say(f"scores by scan: {done.out}/metrics.csv")
    say(f"next: unlabeled predict {done.out} SCANS --out DIR")
