"""Studies with a report: the radiographs of one visit, and what was written about them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from unlabeled.data.record import Record


@dataclass(frozen=True, slots=True)
class Study:
    """Radiographs that one report is about.

    Parameters
    ----------
    records
        At least one.
    report
        Free text.
    """

    records: tuple[Record, ...]
    report: str


def group_studies(records: Sequence[Record]) -> tuple[Study, ...]:
    """Put the radiographs of each study that have the same report together, in the order of their first ones.

    A study whose radiographs have different reports (no column `study`, so that all of a person's are one) is as many
    as there are reports.
    """
    found: dict[tuple[str, str, str], list[Record]] = {}
    for record in records:
        source = record.source
        found.setdefault((source.subject, source.study, source.report or ""), []).append(record)
    return tuple(Study(tuple(members), key[-1]) for key, members in found.items())
