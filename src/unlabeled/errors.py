"""Errors that a person can act on: a fact, and the remedy as text to type."""

from __future__ import annotations

from typing import ClassVar


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
