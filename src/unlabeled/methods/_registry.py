"""Methods by slug: modules of this folder, and of other packages through the entry points ``unlabeled.methods``."""

from __future__ import annotations

import pkgutil
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
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
    return tuple(sorted({*own, *(entry.name for entry in entry_points(group=GROUP))}))


def find(slug: str) -> type[Method]:
    """Import the method of a slug.

    Raises
    ------
    OptionError
        No such method, or it is in the catalogue but does not run here yet.
    """
    for entry in entry_points(group=GROUP):
        if entry.name == slug:
            loaded: type[Method] = entry.load()
            return loaded
    card = catalogue.card(slug)
    if slug not in slugs():
        raise OptionError(
            f"{slug} is in the catalogue but does not run in this version",
            f"These run: {', '.join(slugs())}.",
        )
    return _class_of(import_module(f"unlabeled.methods.{card.module}"))


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
