"""What a method needs and carries, read from its source: importing it would import torch, which takes seconds."""

from __future__ import annotations

import ast
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

from unlabeled.methods._registry import module_of


@dataclass(frozen=True, kw_only=True)
class Outline:
    """The facts of a method that a listing shows.

    Parameters
    ----------
    unit
        What one sample is made of.
    dims
        Axes of space that it works on.
    needs
        What every scan must have, in words.
    carries
        Names of the networks that are carried to a task.
    makes
        What `predict` makes of a scan with the method itself; empty where it makes nothing.
    quirks
        Names of what ``--fidelity official`` reproduces of the published code.
    """

    unit: str
    dims: tuple[int, ...]
    needs: tuple[str, ...]
    carries: tuple[str, ...]
    makes: str = ""
    quirks: tuple[str, ...] = ()

    @property
    def fidelity(self) -> tuple[str, ...]:
        """Values of ``--fidelity``, the default first; ``clean`` alone where there is no quirk to mend or reproduce."""
        return ("clean", "official") if self.quirks else ("clean",)


def outline(slug: str) -> Outline | None:
    """Read the outline of a method; None where there is no such method, or where its file writes it unlike.

    >>> outline("models-genesis").carries
    ('encoder', 'decoder')
    """
    try:
        spec = find_spec(module_of(slug))
    except ImportError:
        return None
    if spec is None or spec.origin is None:
        return None
    tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    for node in classes:
        told = _needs(node)
        if told is not None:
            brief = _outline(told, _carries(node), _value(node, "makes"))
            quirks = _plain_keys(_value(node, "quirks"))
            return brief and replace(brief, quirks=quirks)
    return None


def _plain_keys(made: ast.expr | None) -> tuple[str, ...]:
    """Read the keys of a dictionary that is written out."""
    keys = made.keys if isinstance(made, ast.Dict) else ()
    return tuple(str(key.value) for key in keys if isinstance(key, ast.Constant))


def _value(node: ast.ClassDef, name: str) -> ast.expr | None:
    """Find what a class gives a name of its own, annotated or not."""
    for each in node.body:
        if isinstance(each, ast.AnnAssign):
            targets: list[ast.expr] = [each.target]
        elif isinstance(each, ast.Assign):
            targets = each.targets
        else:
            continue
        if any(isinstance(target, ast.Name) and target.id == name for target in targets):
            return each.value
    return None


def _needs(node: ast.ClassDef) -> dict[str, object] | None:
    """Read the keywords of ``needs = Needs(...)``."""
    made = _value(node, "needs")
    if not isinstance(made, ast.Call):
        return None
    return {word.arg: _plain(word.value) for word in made.keywords if word.arg is not None}


def _carries(node: ast.ClassDef) -> tuple[str, ...]:
    """Read the keys of what ``carries`` returns; the base class returns the encoder."""
    for each in node.body:
        if isinstance(each, ast.FunctionDef) and each.name == "carries":
            keys = [
                key.value
                for inner in ast.walk(each)
                if isinstance(inner, ast.Dict)
                for key in inner.keys
                if isinstance(key, ast.Constant) and isinstance(key.value, str)
            ]
            return tuple(dict.fromkeys(keys))
    return ("encoder",)


def _outline(
    told: dict[str, object], carries: tuple[str, ...], makes: ast.expr | None
) -> Outline | None:
    unit, dims, metadata = told.get("unit"), told.get("dims"), told.get("metadata", ())
    if not (isinstance(unit, str) and isinstance(dims, tuple) and isinstance(metadata, tuple)):
        return None
    some = told.get("some", ())
    needs = [str(name) for name in metadata]
    needs += [f"some {name}" for name in some] if isinstance(some, tuple) else []
    if told.get("volumes"):
        needs.append("volumes")
    if told.get("colour"):
        needs.append("colour")
    for name, what in (
        ("channels", "modalities"),
        ("some_channels", "channels in some"),
        ("scans_per_subject", "scans a subject"),
        ("subjects", "subjects"),
    ):
        count = told.get(name, 1)
        if isinstance(count, int) and count > 1:
            needs.append(f"{count} {what}")
    return Outline(
        unit=unit,
        dims=tuple(map(int, dims)),
        needs=tuple(needs),
        carries=carries or ("encoder",),
        makes=str(_plain(makes) or "") if makes is not None else "",
    )


def _plain(value: ast.expr) -> object:
    """Evaluate a literal; a member of an enumeration gives its name in small letters."""
    if isinstance(value, ast.Attribute):
        return value.attr.lower()
    try:
        return ast.literal_eval(value)
    except ValueError:
        return None
