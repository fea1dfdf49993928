"""Methods by slug: modules of this folder, and of other packages through the entry points ``unlabeled.methods``."""

from __future__ import annotations

import pkgutil
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING

from unlabeled import catalogue
from unlabeled.errors import OptionError

if TYPE_CHECKING:
    from unlabeled.methods._base import Method

GROUP = "unlabeled.methods"


@cache
def slugs() -> tuple[str, ...]:
    """List the slugs that can be run, without importing any method."""
    folder = import_module("unlabeled.methods").__path__
    own = [
        module.name.replace("_", "-")
        for module in pkgutil.iter_modules(folder)
        if not module.name.startswith("_")
    ]
    return tuple(sorted({*own, *_entries()}))


def find(slug: str) -> type[Method]:
    """Import the method of a slug.

    Raises
    ------
    OptionError
        No such method, or it is in the catalogue but does not run here yet.
    """
    entry = brought(slug)
    if entry is not None:
        return _load(entry)
    if slug not in slugs():
        catalogue.card(slug)
        raise OptionError(
            f"{slug} is in the catalogue but does not run in this version",
            f"These run: {', '.join(slugs())}.",
        )
    return _class_of(import_module(module_of(slug)))


def brought(slug: str) -> EntryPoint | None:
    """Find the entry point of a method that another package brings; None for those of this package."""
    return _entries().get(slug)


@cache
def _entries() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=GROUP)}


def module_of(slug: str) -> str:
    """Name the module of a method."""
    entry = brought(slug)
    return entry.module if entry is not None else f"unlabeled.methods.{slug.replace('-', '_')}"


def _load(entry: EntryPoint) -> type[Method]:
    """Import a method that another package brings."""
    from unlabeled.methods._base import Method

    package = entry.dist.name if entry.dist is not None else entry.module
    try:
        loaded = entry.load()
    except (ImportError, AttributeError) as fault:
        raise OptionError(
            f"the method {entry.name} of the package {package} cannot be loaded: {fault}",
            f"Mend its entry point {entry.value!r} in the group {GROUP}, or uninstall the package.",
        ) from fault
    if not (isinstance(loaded, type) and issubclass(loaded, Method)):
        raise OptionError(
            f"the entry point {entry.name} of the package {package} gives {loaded!r}, which is no Method",
            f"Let it name a class that inherits unlabeled.methods._base.Method: {entry.module}:CLASS.",
        )
    return loaded


def _class_of(module: object) -> type[Method]:
    """Take the one Method class that a module defines."""
    from unlabeled.methods._base import Method

    own = [
        each
        for each in vars(module).values()
        if isinstance(each, type)
        and issubclass(each, Method)
        and each.__module__ == getattr(module, "__name__", "")
    ]
    if len(own) != 1:
        raise RuntimeError(f"{module} defines {len(own)} methods, not one")
    return own[0]
