"""Points in a heart's ventricles that a person gives in a table, for studies whose planes are not known."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import TypeAlias

from unlabeled.errors import DataError, OptionError

Triple: TypeAlias = tuple[float, float, float]

COLUMNS = ("study", "lv_x", "lv_y", "lv_z", "rv_x", "rv_y", "rv_z")


@lru_cache(maxsize=4)
def read_landmarks(file: str) -> Mapping[str, tuple[Triple, Triple]]:
    """Read a point in either ventricle by study.

    Raises
    ------
    OptionError
        There is no such file.
    DataError
        A column or a number is missing.
    """
    path = Path(file)
    try:
        with path.open(newline="", encoding="utf-8-sig") as opened:
            rows = list(csv.DictReader(opened))
    except OSError as fault:
        raise OptionError(
            f"--landmarks {file} cannot be read: {fault.strerror}", "Give a CSV file."
        ) from fault
    marked: dict[str, tuple[Triple, Triple]] = {}
    for line, row in enumerate(rows, start=2):
        try:
            lx, ly, lz, rx, ry, rz = (float(row[name]) for name in COLUMNS[1:])
            marked[row["study"]] = ((lx, ly, lz), (rx, ry, rz))
        except (KeyError, TypeError, ValueError) as fault:
            raise DataError(
                f"{file}, line {line}: {', '.join(COLUMNS)} are not all there as numbers [mm]",
                f"Write the header {','.join(COLUMNS)} and one row a study.",
            ) from fault
    return marked
