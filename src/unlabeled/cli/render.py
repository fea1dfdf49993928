"""How the command line looks: one console for results, one for messages."""

from __future__ import annotations

import json
from typing import Any

from rich.console import Console

from unlabeled.errors import UnlabeledError


def console() -> Console:
    """Make the console for results, on standard output; colours only where they can be seen."""
    return Console(highlight=False)


def messages() -> Console:
    """Make the console for messages, on standard error."""
    return Console(stderr=True, highlight=False)


def counted(number: int, one: str, many: str = "") -> str:
    """Write a number with its noun.

    >>> counted(1, "scan"), counted(2, "study", "studies")
    ('1 scan', '2 studies')
    """
    return f"{number} {one if number == 1 else many or one + 's'}"


def sized(count: float) -> str:
    """Give bytes as people read them.

    >>> sized(1536), sized(3 * 2**30)
    ('1.5 KiB', '3.0 GiB')
    """
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def lasting(seconds: float) -> str:
    """Give a time as people read it.

    >>> lasting(0.0123), lasting(42.4), lasting(190), lasting(11400), lasting(180000)
    ('0.012 s', '42 s', '3 min 10 s', '3 h 10 min', '2 d 2 h')
    """
    if seconds < 59.5:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.2g} s"
    units = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))
    large = next(place for place, (_, length) in enumerate(units) if seconds >= length - 0.5)
    (name, length), (under, short) = units[large : large + 2]
    whole, rest = divmod(round(seconds / short), length // short)
    return f"{whole} {name} {rest} {under}" if rest else f"{whole} {name}"


def print_json(value: Any) -> None:
    """Print plain values as JSON on standard output, without wrapping."""
    Console(soft_wrap=True, highlight=False, markup=False).print(json.dumps(value, indent=2))


def print_error(fault: UnlabeledError) -> None:
    """Print an error: the fact, and the remedy below it."""
    out = messages()
    out.print("[bold red]error:[/] ", end="")
    out.print(fault.fact, markup=False, soft_wrap=True)
    if fault.remedy:
        for line in fault.remedy.splitlines():
            out.print(f"  {line}", markup=False, soft_wrap=True)
