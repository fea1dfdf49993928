"""Options as data: frozen keyword-only dataclasses whose annotations carry ranges, checked when made."""

from __future__ import annotations

import dataclasses
import difflib
import types
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from unlabeled.errors import OptionError


@dataclass(frozen=True)
class Between:
    """The closed range of an option; `None` leaves an end open.

    >>> 0.5 in Between(0, 1)
    True
    """

    low: float | None = None
    high: float | None = None

    def __contains__(self, value: float) -> bool:
        return not (
            value != value
            or (self.low is not None and value < self.low)
            or (self.high is not None and value > self.high)
        )

    def __str__(self) -> str:
        if self.low is None:
            return f"at most {self.high}"
        if self.high is None:
            return "above 0" if 0 < self.low < 1e-6 else f"at least {self.low}"
        return f"{self.low} to {self.high}"


Probability = Annotated[float, Between(0, 1)]
Count = Annotated[int, Between(1)]
Whole = Annotated[int, Between(0)]
Positive = Annotated[float, Between(1e-300)]
NonNegative = Annotated[float, Between(0)]


@dataclass(frozen=True, kw_only=True)
class Options:
    """Base of every options class: ranges in annotations are checked, whoever makes the object."""

    def __post_init__(self) -> None:
        hints = get_type_hints(type(self), include_extras=True)
        for field in dataclasses.fields(self):
            _check(field.name, getattr(self, field.name), hints[field.name])

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Names of all options, inherited ones first."""
        return tuple(field.name for field in dataclasses.fields(cls))

    @classmethod
    def may_lack(cls, name: str) -> bool:
        """Tell whether an option may be None."""
        hint = get_type_hints(cls)[name]
        return hint is None or type(None) in get_args(hint)

    @classmethod
    def from_names(cls, **values: Any) -> Options:
        """Make options from a mapping, naming the nearest option for an unknown one."""
        for name in values:
            if name not in cls.names():
                near = difflib.get_close_matches(name, cls.names(), n=1)
                hint = f"Did you mean {flag(near[0])}?" if near else "--help lists the options."
                raise OptionError(f"unknown option {flag(name)}", hint)
        return cls(**values)


def flag(name: str) -> str:
    """Give an option's name as a person types it.

    >>> flag("batch_size")
    '--batch-size'
    """
    return "--" + name.replace("_", "-")


def _check(name: str, value: Any, hint: Any) -> None:
    """Check one value against its annotation: ranges, choices, and the members of tuples."""
    origin = get_origin(hint)
    if origin is Annotated:
        inner, *marks = get_args(hint)
        _check(name, value, inner)
        for mark in marks:
            if isinstance(mark, Between) and value not in mark:
                raise OptionError(
                    f"{flag(name)} is {value}, outside its range",
                    f"Give {flag(name)} a value: {mark}.",
                )
    elif origin is Literal:
        if value not in get_args(hint):
            listed = ", ".join(str(choice) for choice in get_args(hint))
            raise OptionError(
                f"{flag(name)} is {value!r}, not one of {listed}", "Give one of them."
            )
    elif origin in (Union, types.UnionType):
        if value is None and type(None) in get_args(hint):
            return
        faults = []
        for member in get_args(hint):
            if member is type(None):
                continue
            try:
                _check(name, value, member)
            except OptionError as fault:
                faults.append(fault)
            else:
                return
        raise faults[-1]
    elif origin is tuple:
        members = get_args(hint)
        if not isinstance(value, tuple | list):
            raise OptionError(f"{flag(name)} is {value!r}, not a list of values")
        each = members[:1] * len(value) if members[-1:] == (Ellipsis,) else members
        if len(each) != len(value):
            raise OptionError(f"{flag(name)} has {len(value)} values, not {len(each)}")
        for item, member in zip(value, each, strict=True):
            _check(name, item, member)
    elif isinstance(hint, type):
        number = hint is float and isinstance(value, int)
        flagged = isinstance(value, bool) and hint in (int, float)
        if not (isinstance(value, hint) or number) or flagged:
            raise OptionError(f"{flag(name)} is {value!r}, not {_article(hint)}")


def _article(hint: type) -> str:
    names = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}
    return names.get(hint, f"a {hint.__name__}")
