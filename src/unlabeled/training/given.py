"""Options from what was given: by name, ready-made, or as an interrupted run first had them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypeVar

from unlabeled.errors import OptionError
from unlabeled.options import Options, flag
from unlabeled.training.log import RunFolder
from unlabeled.training.settings import Settings

Some = TypeVar("Some", bound=Options)


def complete(
    kind: type[Some],
    options: Some | None,
    settings: Settings | None,
    values: Mapping[str, Any],
) -> tuple[Some, Settings]:
    """Make options and settings from values by name, on top of what is ready-made."""
    for_settings = {n: v for n, v in values.items() if n in Settings.names()}
    rest = {n: v for n, v in values.items() if n not in for_settings}
    return _made(kind, options, rest), _made(Settings, settings, for_settings)


def first_options(
    kind: type[Some], options: Some, sources: Mapping[str, str], folder: RunFolder
) -> Some:
    """Take the options of the first start, all of which were written down; TOML leaves out those that are None.

    An option that an earlier version did not have is at its default.

    Raises
    ------
    OptionError
        One that is typed now differs.
    """
    read = folder.read_options()
    values = {name: read.get(name) for name in kind.names() if name in read or kind.may_lack(name)}
    first = _made(
        kind, None, {n: tuple(v) if isinstance(v, list) else v for n, v in values.items()}
    )
    for name in kind.names():
        now, then = getattr(options, name), getattr(first, name)
        if sources.get(name) == "command line" and now != then:
            raise OptionError(
                f"{flag(name)} is {now}, but this run was started with {then}",
                "Leave it out to go on, or give another --out to start anew.",
            )
    return first


def first_settings(
    settings: Settings, sources: Mapping[str, str] | None, folder: RunFolder
) -> Settings:
    """Take the settings of the first start, but for what is given now; from Python, all are given.

    The number format among them changes rounding, so a run that goes on keeps it unless told otherwise.
    """
    if sources is None:
        return settings
    read = folder.read_options()
    kept = {
        name: read[name]
        for name in settings.names()
        if name in read and sources.get(name, "default") == "default"
    }
    return replace(settings, **{n: v for n, v in kept.items() if n not in ("resume", "quiet")})


def named(options: Options, settings: Settings) -> dict[str, Any]:
    """List every option and setting, as ``options.toml`` keeps them."""
    return {
        **{name: getattr(options, name) for name in options.names()},
        **{name: getattr(settings, name) for name in settings.names() if name != "resume"},
    }


def _made(kind: type[Some], ready: Some | None, values: Mapping[str, Any]) -> Some:
    if ready is not None:
        return replace(ready, **values)
    made = kind.from_names(**values)
    if not isinstance(made, kind):
        raise TypeError(f"{kind} made {type(made)}")
    return made
