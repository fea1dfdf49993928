"""``unlabeled pretrain SLUG SCANS --out RUN``."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from unlabeled.cli.options import command, keywords, read_config, resolve
from unlabeled.cli.render import console, messages
from unlabeled.methods._base import SharedOptions
from unlabeled.methods._registry import find
from unlabeled.training.settings import Settings

KIND = inspect.Parameter.POSITIONAL_ONLY


def pretrain_command(slug: str | None) -> Callable[..., Any]:
    """Make the command of one method; without a slug, the options that all share."""
    options = find(slug).options_class if slug is not None else SharedOptions
    shared = SharedOptions.names()
    own = [p for p in keywords(options, "Method options", order=0) if p.name not in shared]
    common = [p for p in keywords(options, "Training options") if p.name in shared]
    machine = keywords(Settings, "Machine options", order=2)
    return command(_pretrain, _fixed(), own, common, machine)


def _fixed() -> list[inspect.Parameter]:
    named = inspect.Parameter.KEYWORD_ONLY
    return [
        _parameter("slug", str, "Method; `unlabeled methods` lists them.", KIND),
        _parameter("scans", Path, "Folder, data set or manifest of scans.", KIND),
        _parameter("out", Path, "Run folder to make.", named),
        _parameter("init", Path | None, "Run folder or weights file to start from.", named, None),
        _parameter(
            "cache",
            Path | None,
            "Folder of prepared scans; the user's cache folder when absent.",
            named,
            None,
        ),
        _parameter(
            "config",
            Path | None,
            "TOML file with options; unlabeled.toml in this folder when absent.",
            named,
            None,
        ),
    ]


def _parameter(
    name: str, kind: Any, text: str, how: Any, default: Any = inspect.Parameter.empty
) -> inspect.Parameter:
    marked = Annotated[kind, Parameter(help=text)]
    return inspect.Parameter(name, how, default=default, annotation=marked)


def _pretrain(slug: str, scans: Path, **given: Any) -> int:
    """Pretrain an encoder on unlabelled scans with one of the methods.

    Ctrl-C saves a checkpoint; --resume goes on from it, bit for bit as if it had never stopped.
    """
    from unlabeled.training.pretrain import pretrain

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
    )
    if done.result.exit_reason == "interrupted":
        messages().print(
            f"interrupted after {done.result.steps} steps; the checkpoint is complete. Go on with:\n"
            f"  unlabeled pretrain {slug} {scans} --out {given['out']} --resume",
            soft_wrap=True,
        )
        return 130
    if not settings.quiet:
        scores = "  ".join(f"{name} {value:.4g}" for name, value in done.result.score.items())
        out = console()
        out.print(
            f"{done.scans} scans, {done.quarantined} left out"
            + (f" ({given['out']}/quarantine.csv says why)" if done.quarantined else "")
            + f"; {done.result.steps} steps; waited for data "
            f"{100 * done.result.wait_share:.1f} % of the time",
            soft_wrap=True,
        )
        if scores:
            out.print(f"on held-out subjects: {scores}", soft_wrap=True)
        out.print(f"encoder: {done.encoder}", soft_wrap=True)
        out.print(
            f"next: unlabeled finetune segment LABELLED --init {given['out']} --out RUN",
            soft_wrap=True,
        )
    return 0
