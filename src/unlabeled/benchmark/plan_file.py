"""A plan as a TOML file: what a person writes for ``--config``, and ``plan.toml`` of a comparison."""

from __future__ import annotations

import difflib
import json
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from unlabeled.benchmark.plan import Plan
from unlabeled.errors import OptionError, RunError
from unlabeled.training.checkpoint import write_atomically

NAME = "plan.toml"
#: Keys of a plan file; `data`, `metric`, `column` and `keep` are for those who keep its figures.
KEYS = (
    *("title", "task", "scans", "labelled", "part", "fractions", "seeds"),
    *("methods", "finetuning", "settings", "data", "metric", "column", "keep"),
)
_TABLES = ("methods", "finetuning", "settings")


def read_told(path: Path) -> dict[str, Any]:
    """Read a plan file that a person wrote; every key may be absent.

    Raises
    ------
    OptionError
        It is absent or no TOML, or has a key that no plan has.
    """
    try:
        told = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as fault:
        raise OptionError(
            f"cannot read {path} ({fault.strerror})", "Give an existing file with --config."
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as fault:
        raise OptionError(f"{path} is no TOML file ({fault})", "Mend the line it names.") from None
    strange = sorted(set(told) - set(KEYS))
    if strange:
        near = difflib.get_close_matches(strange[0], KEYS, n=1)
        hint = f"Did you mean {near[0]}? " if near else ""
        raise OptionError(
            f"{path} has what no plan has: {', '.join(strange)}",
            f"{hint}A plan has the keys {', '.join(KEYS)}.",
        )
    for name in _TABLES:
        section = told.get(name, {})
        if not isinstance(section, dict) or (
            name == "methods" and not all(isinstance(each, dict) for each in section.values())
        ):
            example = "[methods.models-genesis]" if name == "methods" else f"[{name}]"
            raise OptionError(f"{path}: {name} is no table", f"Write its options below {example}.")
    told["methods"] = {slug: _named(each) for slug, each in told.get("methods", {}).items()}
    for name in ("finetuning", "settings"):
        told[name] = _named(told.get(name, {}))
    return told


def read_plan(out: Path) -> Plan:
    """Read the plan of a comparison from its folder.

    Raises
    ------
    RunError
        The folder holds none, or it is damaged.
    """
    path = out / NAME
    if not path.is_file():
        raise RunError(
            f"{out} holds no comparison: there is no {NAME} in it",
            "Give the --out of `unlabeled compare`.",
        )
    told = read_told(path)
    try:
        return Plan(
            scans=Path(told["scans"]),
            labelled=Path(told["labelled"]),
            task=told["task"],
            methods=told["methods"],
            fractions=tuple(float(value) for value in told["fractions"]),
            seeds=int(told["seeds"]),
            finetuning=told["finetuning"],
            part=told["part"],
            settings=told["settings"],
            title=told.get("title", ""),
        )
    except (KeyError, TypeError, ValueError) as fault:
        raise RunError(
            f"{path} is damaged ({fault})", "Type the same `unlabeled compare` again."
        ) from None


def write_plan(plan: Plan, out: Path) -> Path:
    """Write the plan into the folder of a comparison; give the file."""
    path = out / NAME
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, plan_text(plan).encode())
    return path


def plan_text(plan: Plan) -> str:
    """Write a plan as TOML; options that are None are left out, which is what None means."""
    head = {
        "title": plan.title,
        "scans": str(plan.scans),
        "labelled": str(plan.labelled),
        "task": plan.task,
        "part": plan.part,
        "fractions": [_short(value) for value in plan.fractions],
        "seeds": plan.seeds,
    }
    lines = ["# what is compared with what; `unlabeled compare --config` takes such a file", ""]
    lines += _lines(head)
    for slug, options in plan.methods.items():
        lines += ["", f"[methods.{json.dumps(slug)}]" if "." in slug else f"[methods.{slug}]"]
        lines += _lines(options)
    for name, options in (("finetuning", plan.finetuning), ("settings", plan.settings)):
        lines += ["", f"[{name}]", *_lines(options)]
    return "\n".join(lines) + "\n"


def _named(options: Mapping[str, Any]) -> dict[str, Any]:
    """Name options as Python does, with lists as tuples."""
    return {
        name.replace("-", "_"): tuple(value) if isinstance(value, list) else value
        for name, value in options.items()
    }


def _short(value: float) -> float | int:
    return int(value) if value > 1 else float(value)


def _lines(options: Mapping[str, Any]) -> Iterable[str]:
    return [f"{name} = {_toml(value)}" for name, value in options.items() if value is not None]


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    if isinstance(value, int | float):
        return repr(value)
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")
