"""Errors that a person can act on: a fact, and the remedy as text to type."""

from __future__ import annotations

import errno
import os
import traceback
from typing import ClassVar

DEBUG = "UNLABELED_DEBUG"
# what the operating system says where the person has to make room or to give rights
_MENDABLE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EMFILE)


class UnlabeledError(Exception):
    """Something that the person can mend; the command line prints it and ends with `exit_code`.

    Parameters
    ----------
    fact
        What is so, with the file, the value and the allowed range where there are any.
    remedy
        What to type or to change next.
    """

    exit_code: ClassVar[int] = 2

    def __init__(self, fact: str, remedy: str = "") -> None:
        super().__init__(fact, remedy)
        self.fact = fact
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.fact}\n  {self.remedy}" if self.remedy else self.fact


class OptionError(UnlabeledError):
    """An option's value is outside its range, or options contradict each other."""


class ScanError(UnlabeledError):
    """One scan cannot be read or used; a run leaves it out and names it in `quarantine.csv`."""


class DataError(UnlabeledError):
    """A folder, manifest or data set as a whole cannot be used."""


class RunError(UnlabeledError):
    """A run folder, checkpoint or weights file cannot be used."""


class OurError(UnlabeledError):
    """Something that no one can mend but the people who write Unlabeled."""

    exit_code = 1


def explain_exception(fault: Exception) -> UnlabeledError:
    """Say what a person can mend of an unexpected exception, or that the fault is ours."""
    if isinstance(fault, UnlabeledError):
        return fault
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
