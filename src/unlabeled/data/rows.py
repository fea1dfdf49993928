"""Read the rows of a table as texts: CSV, JSON lines or Parquet."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from unlabeled.errors import DataError

SUFFIXES = frozenset({".csv", ".jsonl", ".parquet"})
Row = tuple[int, dict[str, str]]


def read_rows(path: Path) -> tuple[tuple[str, ...], list[Row]]:
    """Read column names, and each row's number (as an editor counts lines) with its filled cells as texts.

    Raises
    ------
    DataError
        The file cannot be read as a table, with the line where that is known.
    """
    try:
        if path.stat().st_size == 0:
            raise DataError(f"{path} is empty (0 bytes)", "Give a manifest with a column `image`.")
        suffix = path.suffix.lower()
        read = {".csv": _csv, ".jsonl": _jsonl, ".parquet": _parquet}[suffix]
        return read(path)
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is not UTF-8 (byte {error.start})",
            f"Save it as UTF-8, e.g.: iconv -f latin1 -t utf-8 '{path.name}' > utf8{path.suffix}",
        ) from None
    except OSError as error:
        raise DataError(
            f"{path} cannot be read: {error.strerror}", "Give a file that you may read."
        ) from None


def _csv(path: Path) -> tuple[tuple[str, ...], list[Row]]:
    rows: list[Row] = []
    faults: list[str] = []
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, strict=True)
        try:
            header = [name.strip() for name in next(reader, [])]
            _check_header(path, header)
            for cells in reader:
                if not any(cell.strip() for cell in cells):
                    continue
                if len(cells) > len(header):
                    faults.append(
                        f"line {reader.line_num} has {len(cells)} cells for {len(header)} columns"
                    )
                    continue
                pairs = zip(header, cells, strict=False)
                rows.append(
                    (reader.line_num, {name: cell.strip() for name, cell in pairs if cell.strip()})
                )
        except csv.Error as error:
            raise DataError(
                f"{path}, line {reader.line_num}: {error}",
                "Quote texts that hold commas, quotes or line breaks; keep reports longer than 131072 "
                "characters in files of their own.",
            ) from None
    if faults:
        raise DataError(
            f"{path} has lines with too many cells: {'; '.join(faults[:10])}"
            + (f" and {len(faults) - 10} more" if len(faults) > 10 else ""),
            "Quote cells that hold commas.",
        )
    return tuple(header), rows


def _check_header(path: Path, header: list[str]) -> None:
    double = sorted({name for name in header if name and header.count(name) > 1})
    if double:
        raise DataError(
            f"{path} has the column {', '.join(double)} more than once", "Keep one of each."
        )
    if len(header) == 1 and any(mark in header[0] for mark in ";\t"):
        raise DataError(
            f"{path} separates its columns by {'semicolons' if ';' in header[0] else 'tabs'}",
            "Save it with commas between the columns.",
        )


def _jsonl(path: Path) -> tuple[tuple[str, ...], list[Row]]:
    rows: list[Row] = []
    columns: dict[str, None] = {}
    faults: list[str] = []
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                value = json.loads(line)
            except (ValueError, RecursionError):
                faults.append(f"line {number} is no JSON")
                continue
            if not isinstance(value, dict):
                faults.append(f"line {number} is no object")
                continue
            columns.update(dict.fromkeys(value))
            rows.append((number, _texts(value)))
    if faults:
        raise DataError(
            f"{path}: {'; '.join(faults[:10])}"
            + (f" and {len(faults) - 10} more" if len(faults) > 10 else ""),
            'Write one object a line: {"image": "p07/ct.nii.gz", "subject": "p07"}',
        )
    return tuple(columns), rows


def _parquet(path: Path) -> tuple[tuple[str, ...], list[Row]]:
    try:
        from pyarrow import lib, parquet
    except ImportError:
        raise DataError(
            f"{path} needs the package pyarrow", "pip install 'unlabeled[parquet]'"
        ) from None
    rows: list[Row] = []
    read: Any = parquet.ParquetFile
    try:
        with read(path) as file:
            columns = tuple(file.schema_arrow.names)
            for batch in file.iter_batches():
                start = len(rows) + 1
                rows.extend(
                    (number, _texts(value)) for number, value in enumerate(batch.to_pylist(), start)
                )
    except (lib.ArrowException, ValueError) as error:
        raise DataError(
            f"{path} cannot be read as Parquet ({type(error).__name__})", "Write the file again."
        ) from None
    return columns, rows


def _texts(value: dict[str, Any]) -> dict[str, str]:
    """Turn the cells of a typed row into the texts that a CSV file would hold; empty ones are dropped."""
    return {str(name): text for name, cell in value.items() for text in _text(cell) if text}


def _text(cell: Any) -> Iterator[str]:
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return
    if isinstance(cell, list) and all(isinstance(item, str) for item in cell):
        yield ";".join(cell)
    elif isinstance(cell, list | dict):
        yield json.dumps(cell)
    else:
        yield str(cell).strip()
