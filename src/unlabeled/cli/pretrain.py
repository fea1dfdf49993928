"""``unlabeled pretrain SLUG SCANS --out RUN``."""

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
from unlabeled.cli.render import console, counted, messages
from unlabeled.methods._base import SharedOptions
from unlabeled.methods._registry import find
from unlabeled.training.pretrain import Pretrained, pretrain
from unlabeled.training.settings import Settings, is_first_process


def pretrain_command(slug: str | None, typed: Sequence[str] = ()) -> Callable[..., Any]:
    """Make the command of one method; without a slug, the options that all share.

    Parameters
    ----------
    slug
        Whose options the command has.
    typed
        The words of the command line: what to type to go on is told in them.
    """
    options = find(slug).options_class if slug is not None else SharedOptions

    def run(slug: str, scans: Path, **given: Any) -> int:
        return _pretrain(slug, scans, typed, **given)

    run.__doc__ = _pretrain.__doc__
    shown = groups(options, "Method options", SharedOptions, Settings)
    return command(run, _fixed(), *shown)


def _fixed() -> list[inspect.Parameter]:
    return [
        parameter("slug", str, "Method; `unlabeled methods` lists them.", at=POSITION),
        parameter("scans", Path, "Folder, data set or manifest of scans.", at=POSITION),
        parameter("out", Path, "Run folder to make."),
        parameter("init", Path | None, "Run folder or weights file to start from.", default=None),
        *places(),
    ]


def _pretrain(slug: str, scans: Path, typed: Sequence[str], **given: Any) -> int:
    """Pretrain an encoder on unlabelled scans with one of the methods.

    Ctrl-C saves a checkpoint; --resume goes on from it, bit for bit as if it had never stopped.
    """
    kind = find(slug)
    known = {*kind.options_class.names(), *Settings.names(), "cache"}
    file = read_config(given.get("config"), known)
    options, from_options = resolve(kind.options_class, given, file)
    settings, from_settings = resolve(Settings, given, file)
    done = pretrain(
        slug,
        scans,
        given["out"],
        options=options,
        settings=settings,
        sources={**from_options, **from_settings},
        init=given.get("init"),
        cache=given.get("cache", file.get("cache")),
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
    if is_first_process() and not settings.quiet:
        _show(done)
    return 0


def _show(done: Pretrained) -> None:
    out = console()

    def say(text: str) -> None:
        out.print(text, soft_wrap=True, markup=False)

    for line in done.loaded:
        say(line)
    say(
        f"{counted(done.scans, 'scan')}, {done.quarantined} left out"
        + (f" ({done.out}/quarantine.csv says why)" if done.quarantined else "")
        + f"; {counted(done.result.steps, 'step')}; waited for data "
        f"{100 * done.result.wait_share:.1f} % of the time"
    )
    scores = "  ".join(f"{name} {value:.4g}" for name, value in done.result.score.items())
    if scores:
        say(f"on held-out subjects: {scores}")
    say(f"encoder: {done.encoder}")
    say(f"next: unlabeled finetune segment LABELLED --init {done.out} --out RUN")
