"""``unlabeled cache``: what the store of prepared scans holds, and making room in it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.table import Table

from unlabeled.cli.render import console, print_json, sized
from unlabeled.data import housekeeping
from unlabeled.data.housekeeping import Preparation, list_preparations
from unlabeled.data.walk import user_cache
from unlabeled.errors import OptionError


def cache(
    *,
    cache: Annotated[Path | None, Parameter(name="--cache")] = None,
    prune: Annotated[bool, Parameter(name="--prune", negative="")] = False,
    older_than: float | None = None,
    json: Annotated[bool, Parameter(name="--json", negative="")] = False,
) -> int:
    """List the prepared scans of the cache, or remove them; they are prepared again when needed.

    Parameters
    ----------
    cache
        Folder of prepared scans; the user's cache folder when absent.
    prune
        Remove prepared scans. Do not do so while a run uses them.
    older_than
        With --prune, only scans that no run used for so many days.
    json
        Print JSON instead of a table.
    """
    root = user_cache() if cache is None else cache
    if prune:
        return _prune(root, older_than, json)
    if older_than is not None:
        raise OptionError("--older-than removes nothing by itself", "Add --prune.")
    found = list_preparations(root)
    if json:
        print_json({"cache": str(root), "preparations": [_as_plain(one) for one in found]})
        return 0
    out = console()
    if not found:
        out.print(f"No prepared scans in {root}.", markup=False, soft_wrap=True)
        return 0
    table = Table("preparation", "spacing [mm]", "method", box=None, pad_edge=False)
    for column in ("scans", "size", "last used"):
        table.add_column(column, justify="right")
    for one in found:
        spacing = "own" if one.spacing is None else " x ".join(f"{edge:g}" for edge in one.spacing)
        name = one.folder.name.partition("-")[2]
        row = (name, spacing, one.prepare or "-", f"{one.scans:,}", sized(one.size), _age(one.used))
        table.add_row(*row)
    out.print(table)
    total = f"{sum(one.scans for one in found):,} scans, {sized(sum(one.size for one in found))} in {root}"
    out.print(total, markup=False, soft_wrap=True)
    return 0


def _prune(root: Path, older_than: float | None, json: bool) -> int:
    days = 0.0 if older_than is None else older_than
    if not days >= 0:
        raise OptionError(f"--older-than is {days:g} days", "Give --older-than at least 0.")
    gone = housekeeping.prune(root, days)
    if json:
        print_json({"cache": str(root), "scans": gone.scans, "bytes": gone.size})
    else:
        text = f"Removed {gone.scans:,} prepared scans, {sized(gone.size)}, from {root}."
        console().print(text, markup=False, soft_wrap=True)
    return 0


def _as_plain(one: Preparation) -> dict[str, object]:
    return {
        "name": one.folder.name,
        "spacing": one.spacing,
        "prepare": one.prepare,
        "scans": one.scans,
        "bytes": one.size,
        "days_since_use": round(one.used, 3),
    }


def _age(days: float) -> str:
    """Give an age as people read it.

    >>> _age(0.5 / 24), _age(0.5), _age(3.2)
    ('just now', '12 hours ago', '3 days ago')
    """
    if days < 1 / 24:
        return "just now"
    count, unit = (days * 24, "hour") if days < 1 else (days, "day")
    return f"{count:.0f} {unit}{'' if round(count) == 1 else 's'} ago"
