"""From an options dataclass to a command: its fields become options, its docstring their help, its ranges are told."""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import shlex
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

from cyclopts import Group, Parameter

from unlabeled.errors import OptionError
from unlabeled.options import Between, Options

Some = TypeVar("Some", bound=Options)
POSITION = inspect.Parameter.POSITIONAL_ONLY
NAMED = inspect.Parameter.KEYWORD_ONLY


def describe(options: type[Options]) -> dict[str, str]:
    """Read the help of every option from the NumPy docstrings of a class and its bases."""
    told: dict[str, str] = {}
    for base in reversed(options.__mro__):
        told.update(_entries(inspect.cleandoc(base.__dict__.get("__doc__") or "")))
    return {name: text.replace("``", "") for name, text in told.items()}


def keywords(options: type[Options], group: str, order: int = 1) -> list[inspect.Parameter]:
    """Make keyword parameters, one an option, with defaults and help."""
    hints = get_type_hints(options, include_extras=True)
    told = describe(options)
    shelf = Group(group, sort_key=order)
    made = []
    for field in dataclasses.fields(options):
        hint = hints[field.name]
        limits = [each for each in _marks(hint) if isinstance(each, Between)]
        text = told.get(field.name, "")
        if limits:
            text += f" ({limits[0]})"
        mark = Parameter(
            help=text,
            group=shelf,
            consume_multiple=_is_many(hint),
            negative=_negative(field.default),
        )
        made.append(
            inspect.Parameter(
                field.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=field.default,
                annotation=Annotated[_bare(hint), mark],
            )
        )
    return made


def parameter(
    name: str,
    kind: Any,
    text: str,
    *,
    at: inspect._ParameterKind = NAMED,
    default: Any = inspect.Parameter.empty,
) -> inspect.Parameter:
    """Make one parameter that is no field of an options class; a flag has no ``--no-...``."""
    marked = Annotated[kind, Parameter(help=text, negative=() if kind is bool else None)]
    return inspect.Parameter(name, at, default=default, annotation=marked)


def places() -> list[inspect.Parameter]:
    """Make the parameters that every training shares besides options: prepared scans and a file of options."""
    return [
        parameter(
            "cache",
            Path | None,
            "Folder of prepared scans; the user's cache folder when absent.",
            default=None,
        ),
        parameter(
            "config",
            Path | None,
            "TOML file with options; unlabeled.toml in this folder when absent.",
            default=None,
        ),
    ]


def go_on(arguments: Sequence[str]) -> str:
    """Write the command that goes on with an interrupted run: what was typed, and ``--resume``.

    >>> go_on(["pretrain", "models-genesis", "my scans", "--out", "run"])
    "unlabeled pretrain models-genesis 'my scans' --out run --resume"
    """
    again = [] if "--resume" in arguments else ["--resume"]
    return shlex.join(["unlabeled", *arguments, *again])


def groups(
    options: type[Options], title: str, shared: type[Options], machine: type[Options]
) -> tuple[list[inspect.Parameter], ...]:
    """Group the options of a training: its own under `title`, those that every training shares, the machine's."""
    names = shared.names()
    own = [each for each in keywords(options, title, order=0) if each.name not in names]
    common = [each for each in keywords(options, "Training options") if each.name in names]
    return own, common, keywords(machine, "Machine options", order=2)


def command(
    function: Callable[..., Any], fixed: list[inspect.Parameter], *added: list[inspect.Parameter]
) -> Callable[..., Any]:
    """Give a function that takes ``**given`` an explicit signature; it receives only what was typed."""
    parameters = [*fixed]
    seen = {parameter.name for parameter in fixed}
    for group in added:
        for parameter in group:
            if parameter.name not in seen:
                seen.add(parameter.name)
                parameters.append(parameter)

    def call(*args: Any, **given: Any) -> Any:
        return function(*args, **given)

    call.__doc__ = function.__doc__
    call.__name__ = function.__name__
    call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    call.__annotations__ = {each.name: each.annotation for each in parameters}
    return call


def resolve(
    options: type[Some], given: Mapping[str, Any], file: Mapping[str, Any]
) -> tuple[Some, dict[str, str]]:
    """Make options from what was typed, then what a file says, then the defaults; and tell which is which."""
    names = options.names()
    values = {name: value for name, value in file.items() if name in names}
    sources = dict.fromkeys(values, "file")
    for name, value in given.items():
        if name in names:
            values[name] = value
            sources[name] = "command line"
    lists = {name: tuple(value) for name, value in values.items() if isinstance(value, list)}
    made = options.from_names(**{**values, **lists})
    if not isinstance(made, options):
        raise TypeError(f"{options} made {type(made)}")
    return made, {name: sources.get(name, "default") for name in names}


def read_config(path: Path | None, known: set[str]) -> dict[str, Any]:
    """Read option values from ``--config FILE.toml``, or from ``unlabeled.toml`` where it lies here.

    Raises
    ------
    OptionError
        The file is absent or no TOML, or names an option that no one has.
    """
    if path is None:
        path = Path("unlabeled.toml")
        if not path.is_file():
            return {}
    try:
        read = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as fault:
        raise OptionError(
            f"cannot read {path} ({fault.strerror})", "Give an existing file with --config."
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as fault:
        raise OptionError(f"{path} is no TOML file ({fault})", "Mend the line it names.") from None
    values = {name.replace("-", "_"): value for name, value in read.items()}
    strange = sorted(set(values) - known)
    if strange:
        near = difflib.get_close_matches(strange[0], known, n=1)
        hint = f"Did you mean {near[0]}? " if near else ""
        nested = any(isinstance(values[name], dict) for name in strange)
        raise OptionError(
            f"{path} sets what no option is called: {', '.join(strange)}",
            f"{hint}{'Write options without a [table]; ' if nested else ''}--help lists the options.",
        )
    return values


def _entries(text: str) -> dict[str, str]:
    """Split the Parameters section of a docstring; names that share an entry share its text."""
    entries: dict[str, str] = {}
    names: list[str] = []
    inside = False
    lines = text.splitlines()
    for number, line in enumerate(lines):
        under = lines[number + 1] if number + 1 < len(lines) else ""
        if under.startswith("---") and line.strip():
            inside = line.strip() in ("Parameters", "Attributes")
            names = []
        elif not inside or line.startswith("---") or not line.strip():
            continue
        elif not line.startswith(" "):
            names = [name.strip() for name in line.split(":")[0].split(",")]
            entries.update(dict.fromkeys(names, ""))
        else:
            for name in names:
                entries[name] = f"{entries[name]} {line.strip()}".strip()
    return entries


def _marks(hint: Any) -> list[Any]:
    """Collect the annotations anywhere in a hint."""
    found = list(hint.__metadata__) if get_origin(hint) is Annotated else []
    for inner in get_args(hint):
        found += _marks(inner)
    return found


def _bare(hint: Any) -> Any:
    return get_args(hint)[0] if get_origin(hint) is Annotated else hint


def _is_many(hint: Any) -> bool:
    return get_origin(hint) is tuple or any(_is_many(inner) for inner in get_args(hint))


def _negative(default: Any) -> tuple[str, ...] | None:
    """Offer ``--no-...`` for flags that are on by default alone."""
    return None if default is True else ()
