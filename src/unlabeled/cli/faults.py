"""What is wrong with the words that were typed, and what to type instead."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from typing import Any, Literal, get_args, get_origin

from cyclopts import (
    CoercionError,
    CycloptsError,
    MissingArgumentError,
    UnknownCommandError,
    UnknownOptionError,
    UnusedCliTokensError,
)

from unlabeled.cli.commands import COMMANDS
from unlabeled.errors import OptionError, UnlabeledError


def explain_typing(fault: CycloptsError, arguments: Sequence[str]) -> UnlabeledError:
    """Say what is wrong with the words that were typed, and what to type."""
    name = command_of(arguments)
    lists = f"`unlabeled {name + ' ' if name else ''}--help` lists what can be typed."
    usage = f"Type: {COMMANDS[name].usage}\n{lists}" if name else lists
    if isinstance(fault, UnknownCommandError) and fault.unused_tokens:
        word = fault.unused_tokens[0]
        near = difflib.get_close_matches(word, COMMANDS, n=1)
        hint = f"Did you mean `unlabeled {near[0]}`? " if near else ""
        return OptionError(
            f"unknown command {word!r}", f"{hint}`unlabeled --help` lists the commands."
        )
    if isinstance(fault, MissingArgumentError) and fault.argument is not None:
        wanted = fault.argument.name
        if wanted in arguments:
            return OptionError(f"{wanted} is given without a value", usage)
        return OptionError(f"`unlabeled {name}` needs {wanted}", usage)
    if isinstance(fault, UnusedCliTokensError) and fault.unused_tokens:
        words = ", ".join(map(repr, fault.unused_tokens))
        return OptionError(f"nothing takes {words}", usage)
    if isinstance(fault, UnknownOptionError):
        near = re.findall(r"Did you mean ([^ ?]+)\?", str(fault))
        hint = f"Did you mean {near[0]}? " if near else ""
        return OptionError(
            f"unknown option {fault.token.keyword or fault.token.value}", hint + lists
        )
    if isinstance(fault, CoercionError) and fault.token is not None and fault.argument is not None:
        wanted = fault.token.keyword or fault.argument.name
        return OptionError(
            f"{wanted} is {fault.token.value!r}, not {_expected(fault.argument.hint)}", lists
        )
    return OptionError(" ".join(str(fault).split()), lists)


def command_of(arguments: Sequence[str]) -> str:
    """Name the command among the words that were typed; empty where there is none."""
    words = [word for word in arguments if not word.startswith("-")]
    return words[0] if words and words[0] in COMMANDS else ""


def _expected(hint: Any) -> str:
    """Say what an option takes, from its type."""
    names = {int: "a whole number", float: "a number", bool: "true or false"}
    if hint in names:
        return names[hint]
    choices = [choice for each in (hint, *get_args(hint)) for choice in _choices(each)]
    if choices:
        return f"one of {', '.join(map(str, choices))}"
    inner = [_expected(each) for each in get_args(hint) if each not in (type(None), Ellipsis)]
    return inner[0] if inner else "of the kind it takes"


def _choices(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) is Literal else ()
