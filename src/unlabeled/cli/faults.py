"""What went wrong, in words: mistyped commands, exhausted memory and disks, and faults of our own."""

from __future__ import annotations

import difflib
import errno
import os
import re
import traceback
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
from unlabeled.errors import OptionError, RunError, UnlabeledError

DEBUG = "UNLABELED_DEBUG"
# what the operating system says where the person has to make room or to give rights
_MENDABLE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EMFILE)


class OurError(UnlabeledError):
    """Something that no one can mend but the people who write Unlabeled."""

    exit_code = 1


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


def explain_exception(fault: Exception) -> UnlabeledError:
    """Say what a person can mend of an unexpected exception, or that the fault is ours."""
    text = " ".join(str(fault).split())
    if isinstance(fault, OSError) and fault.errno in _MENDABLE:
        place = f"{fault.filename}: " if fault.filename else ""
        return RunError(
            f"{place}{fault.strerror}",
            "Make room or give the rights, or choose another place with --out and --cache.",
        )
    if isinstance(fault, MemoryError) or "out of memory" in text or "can't allocate memory" in text:
        return RunError(
            "the memory is used up",
            "Give a smaller --batch-size or --patch-size, a smaller --encoder, or fewer --workers.",
        )
    frames = traceback.extract_tb(fault.__traceback__)
    at = f" ({os.path.basename(frames[-1].filename)}, line {frames[-1].lineno})" if frames else ""  # noqa: PTH119
    return OurError(
        f"a fault of Unlabeled, not yours: {type(fault).__name__}: {text[:300] or 'no message'}{at}",
        f"Please report it with what the same command prints after {DEBUG}=1, "
        "and with `unlabeled doctor`.",
    )


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
