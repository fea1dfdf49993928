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
