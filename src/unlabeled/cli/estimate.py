"""``unlabeled estimate SLUG SCANS``: time, memory and disk of a pretraining, before it is started."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.table import Table

from unlabeled.cli.options import (
    POSITION,
    command,
    groups,
    parameter,
    places,
    read_config,
    resolve,
)
from unlabeled.cli.render import console, counted, lasting, messages, print_json, sized
from unlabeled.methods._base import SharedOptions
from unlabeled.methods._registry import find
from unlabeled.training.estimate import TRIAL_SECONDS, Estimate, estimate
from unlabeled.training.settings import Settings


def estimate_command(slug: str | None) -> Callable[..., Any]:
    """Make the command of one method, with all options of its pretraining; without a slug, those that all share."""
    options = find(slug).options_class if slug is not None else SharedOptions

    def run(slug: str, scans: Path, **given: Any) -> int:
        return _estimate(slug, scans, **given)

    run.__doc__ = _estimate.__doc__
    own, common, machine = groups(options, "Method options", SharedOptions, Settings)
    return command(run, _fixed(), own, common, [each for each in machine if each.name != "resume"])


def _fixed() -> list[inspect.Parameter]:
    return [
        parameter("slug", str, "Method; `unlabeled methods` lists them.", at=POSITION),
        parameter("scans", Path, "Folder, data set or manifest of scans.", at=POSITION),
        parameter(
            "trial_seconds",
            float,
            "Time for preparing few scans and for steps [s]; the whole trial takes a little longer.",
            default=TRIAL_SECONDS,
        ),
        parameter("json", bool, "Print JSON.", default=False),
        parameter("init", Path | None, "Run folder or weights file to start from.", default=None),
        *places(),
    ]


def _estimate(slug: str, scans: Path, **given: Any) -> int:
    """Estimate time, memory and disk of a pretraining, with its own options, by trying it for a minute.

    Nothing is left behind, and nothing is added to the prepared scans.
    """
    kind = find(slug)
    file = read_config(
        given.get("config"), {*kind.options_class.names(), *Settings.names(), "cache"}
    )
    options, _ = resolve(kind.options_class, given, file)
    settings, _ = resolve(Settings, given, file)
    out = messages()
    with out.status("starting a trial", spinner="dots") as status:

        def say(text: str) -> None:
            if not settings.quiet:
                status.update(text)

        if settings.quiet:
            status.stop()
        found = estimate(
            slug,
            scans,
            options=options,
            settings=settings,
            init=given.get("init"),
            cache=given.get("cache", file.get("cache")),
            trial_seconds=given.get("trial_seconds", TRIAL_SECONDS),
            say=say,
        )
    if given.get("json", False):
        print_json(found.as_json())
    else:
        show(found)
    return 0


def show(found: Estimate) -> None:
    """Print an estimate for a person."""
    out = console()

    def say(text: str, style: str = "") -> None:
        out.print(text, style=style, markup=False, soft_wrap=True)

    its, had = found.forecast, found.measured
    made = had.preparation
    tried = sum(phase.tried for phase in had.phases)
    say(
        f"{found.slug}: {counted(had.scans, 'scan')}, {had.left_out} left out; "
        f"{counted(its.steps, 'step')}. "
        f"Tried: {made.tried:,} of {counted(made.fresh, 'scan')} to prepare, {counted(tried, 'step')}"
    )
    table = Table("part of the run", box=None, pad_edge=False, header_style="bold")
    for name in ("times", "each", "together"):
        table.add_column(name, justify="right")
    for part in its.parts:
        if part.seconds >= 0.005 * its.seconds:
            often = f"{part.times:,}" if part.times > 1 else ""
            each = lasting(part.each) if part.times > 1 else ""
            table.add_row(part.name, often, each, lasting(part.seconds))
    out.print(table)
    held, total = made.held, made.held + made.fresh
    there = f" ({held:,} of {total:,} scans are prepared already)" if held else ""
    on_gpu = f" + {sized(had.gpu_memory)} on the device" if had.gpu_memory is not None else ""
    say(f"time    {lasting(its.seconds)} ({lasting(its.low)} to {lasting(its.high)})", "bold")
    say(f"memory  {sized(found.memory)}{on_gpu}", "bold")
    say(f"disk    {sized(its.store_bytes)} store{there} + {sized(its.run_bytes)} run", "bold")
    say(
        f"bottleneck: training {100 * (its.training_share - its.wait_share):.0f} %, "
        f"waiting for data {100 * its.wait_share:.0f} %, all else {100 * (1 - its.training_share):.0f} %"
    )
    for text in found.warnings:
        say(f"warning: {text}", "yellow")
    for text in found.notes:
        say(f"note: {text}")
