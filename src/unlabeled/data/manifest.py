"""Scans listed in a manifest: one row a scan, columns as the user guide names them.

A fault of the table (no column ``image``, not UTF-8, broken quoting) ends with one error; a fault of a row (absent
file, wrong number, repeated row) puts that row into quarantine with its line, so that one bad row never stops a run.
Paths are relative to the manifest; paths outside its folder are allowed, and a note counts them.
"""

from __future__ import annotations

import difflib
import math
import os
import re
from dataclasses import replace
from pathlib import Path

from unlabeled.data.folders import series_names
from unlabeled.data.formats import detect
from unlabeled.data.grouping import grouped
from unlabeled.data.layouts import Found, listed, owner
from unlabeled.data.rows import read_rows
from unlabeled.data.scan import Quarantined, Recording, ScanFile, Source
from unlabeled.data.walk import list_files
from unlabeled.errors import DataError

COLUMNS = (
    "image",
    "subject",
    "study",
    "family",
    "time",
    "modality",
    "split",
    "mask",
    "label",
    "target",
    "report",
    "level",
    "boxes",
    "frame",
    "response",
    "region",
    "position",
)
LABELS = ("mask", "label", "target")
_REPORT_SUFFIXES = (".txt", ".md")
_PERSON = "person"  # of responses whose manifest does not say whose they are


class _RowError(Exception):
    """Why one row is left out."""

    def __init__(self, fact: str, remedy: str = "") -> None:
        super().__init__(fact, remedy)
        self.fact = fact
        self.remedy = remedy


def from_manifest(path: Path, *, labelled: bool, cache: Path | None) -> Found:
    """Find the scans that a manifest lists; with `labelled`, rows with a mask, label or target.

    Raises
    ------
    DataError
        When the table as a whole cannot be used; all faults of its columns are named at once.
    """
    columns, rows = read_rows(path)
    notes = _check_columns(path, columns, labelled=labelled)
    if not rows:
        raise DataError(f"{path} has a header but no rows", "Give one row a scan.")
    found = Found("manifest", _rule(columns), notes=notes)
    seen: dict[tuple[str, ...], tuple[int, dict[str, str]]] = {}
    heard: dict[Recording, int] = {}
    names: set[str] = set()
    sources: list[Source] = []
    ownerless: set[str] = set()
    outside = 0
    common = _common_folder([cells["image"] for _, cells in rows if "image" in cells])
    for line, cells in rows:
        try:
            images = _images(cells)
            places = tuple(_place(path.parent, image) for image in images)
            responses = _responses(path.parent, cells)
            for one in responses:
                if heard.setdefault(one, line) != line:
                    raise _RowError(
                        f"names a response of line {heard[one]}", "Name each response once."
                    )
            identity = (*places, cells.get("frame", ""), cells.get("response", ""))
            if identity in seen:
                first, other = seen[identity]
                differs = sorted(
                    name
                    for name in COLUMNS
                    if name != "image" and other.get(name) != cells.get(name)
                )
                also = f", with another {listed(differs)}" if differs else ""
                raise _RowError(f"repeats line {first}{also}", "Keep one row a scan.")
            seen[identity] = (line, cells)
            source = _source(path.parent, images, responses, cells, cache, common)
            if responses and images and source.name in names:  # one picture, several rows
                source = replace(source, name=f"{source.name};{_first(cells)}")
            if labelled and not any(cells.get(name) for name in LABELS):
                raise _RowError(
                    "has neither mask, label nor target", "Fill one in, or drop the row."
                )
            if source.name in names:
                raise _RowError(
                    "names the scan of an earlier row in another way", "Keep one row a scan."
                )
        except _RowError as fault:
            name = cells.get("image") or f"line {line}"
            found.quarantine.append(
                Quarantined(name, f"{path.name}, line {line} {fault.fact}", fault.remedy)
            )
            continue
        names.add(source.name)
        sources.append(source)
        if not cells.get("subject") and source.channels[0].format == "dicom":
            ownerless.add(source.name)
        outside += any(not place.startswith(_place(path.parent, "") + os.sep) for place in places)
    if outside:
        found.notes.append(f"{outside} rows name images outside the folder of {path.name}")
    if ownerless:
        sources = _with_patients(path.parent, sources, ownerless, cache)
    found.sources = sorted(sources, key=lambda source: source.name)
    return found


def _check_columns(path: Path, columns: tuple[str, ...], *, labelled: bool) -> list[str]:
    """Refuse a table that lacks what is needed; note columns that nobody reads."""
    listed_columns = ", ".join(repr(name) for name in columns) or "none"
    if "image" not in columns and "response" not in columns:
        near = [
            name for name in columns if name.lower() in ("image", "images", "path", "file", "scan")
        ]
        hint = f"Rename the column {near[0]!r} to 'image'." if near else "Add a column `image`."
        raise DataError(f"{path} has no column `image`; its columns are {listed_columns}", hint)
    if labelled and not set(LABELS) & set(columns):
        raise DataError(
            f"{path} has no labels; its columns are {listed_columns}",
            "Add a column mask (path), label (class) or target (number).",
        )
    notes = []
    for name in columns:
        if name not in COLUMNS:
            near = difflib.get_close_matches(name.lower(), COLUMNS, n=1, cutoff=0.8)
            hint = f" (did you mean {near[0]}?)" if near else ""
            notes.append(f"column {name!r} of {path.name} is not read{hint}")
    return notes


def _rule(columns: tuple[str, ...]) -> str:
    subject = (
        "subject = the column of the manifest"
        if "subject" in columns
        else "subject = pseudonym of the DICOM patient, else the first folder below the one that holds all images, else the image's stem"
    )
    study = (
        "study = the column"
        if "study" in columns
        else "study = the column time, else as the subject"
    )
    answers = "; responses of no subject are of one person" if "response" in columns else ""
    return f"{subject}; {study}{answers}"


def _common_folder(images: list[str]) -> str:
    """Give the folder that holds every image: it tells nobody apart, so subjects are named below it.

    >>> _common_folder(["pictures/a.png", "pictures/b.png"]), _common_folder(["p1/a.png", "p2/b.png"])
    ('pictures', '')
    """
    folders = {os.path.dirname(each.split(";")[0].strip()) for each in images}  # noqa: PTH120
    if len(images) < 2 or any(os.path.isabs(each) for each in folders) or "" in folders:  # noqa: PTH117
        return ""
    return os.path.commonpath(folders)


def _images(cells: dict[str, str]) -> tuple[str, ...]:
    images = tuple(image.strip() for image in cells.get("image", "").split(";"))
    if not any(images):
        if cells.get("response"):
            return ()
        raise _RowError("has no image", "Fill in the path, or drop the row.")
    if not all(images):
        raise _RowError("has an empty path between semicolons", "Remove the extra `;`.")
    if len(set(images)) != len(images):
        raise _RowError("names one image twice", "List each modality once.")
    return images


def _place(folder: Path, relative: str) -> str:
    """Make a path absolute, without following links: what tells files apart and inside from outside."""
    return os.path.normpath(os.path.join(Path.cwd(), folder, relative))  # noqa: PTH118


def _source(
    folder: Path,
    images: tuple[str, ...],
    responses: tuple[Recording, ...],
    cells: dict[str, str],
    cache: Path | None,
    common: str = "",
) -> Source:
    channels = tuple(_scan_file(folder, image, "image", cache) for image in images)
    channels = channels or (responses[0].file,)
    modality = cells.get("modality", "")
    count = len(modality.split(";"))
    if count > 1 and count != len(images):
        raise _RowError(
            f"has {count} modalities for {len(images)} images", "Give one modality an image."
        )
    subject, study = cells.get("subject", ""), cells.get("study", "")
    time = _number(cells, "time")
    if not subject and responses:
        subject = _PERSON
    elif not subject:
        subject, default = _owner(os.path.relpath(images[0], common) if common else images[0])
        study = study or default
    visit = study or cells.get("time", "")
    frame = _number(cells, "frame")
    if frame is not None and (frame < 0 or frame != int(frame)):
        raise _RowError(f"has the frame {cells['frame']!r}", "Give a whole number from 0.")
    mask, region = cells.get("mask"), cells.get("region")
    name = ";".join(Path(image).as_posix() for image in images) or _first(cells)
    return Source(
        name=name if frame is None else f"{name}#{int(frame)}",
        channels=channels,
        subject=subject,
        study=visit if visit.startswith(subject) else f"{subject}/{visit}" if visit else subject,
        family=cells.get("family", ""),
        time=time,
        modality=modality,
        split=cells.get("split"),
        mask=_scan_file(folder, mask, "mask", cache) if mask else None,
        label=cells.get("label"),
        target=_number(cells, "target"),
        report=_report(folder, cells.get("report")),
        level=cells.get("level"),
        boxes=cells.get("boxes"),
        frame=None if frame is None else int(frame),
        responses=responses,
        region=_scan_file(folder, region, "region", cache) if region else None,
        position=_position(cells.get("position")),
    )


def _responses(folder: Path, cells: dict[str, str]) -> tuple[Recording, ...]:
    """Find the samples of runs that a cell names: ``run1.npy#3;run2.npy#14`` are repeats of one picture."""
    found = []
    for part in cells.get("response", "").split(";"):
        named = part.strip()
        if not named:
            continue
        run, mark, number = named.rpartition("#")
        whole = not mark or not number.isdecimal()
        file = _scan_file(folder, named if whole else run, "response", None)
        if file.format not in ("npy", "nifti"):
            raise _RowError(
                f"names the response {named}, which is neither npy nor NIfTI",
                "Save runs with numpy.save, a row a sample and a column a voxel, or as NIfTI.",
            )
        found.append(Recording(file, None if whole else int(number)))
    if len(set(found)) != len(found):
        raise _RowError("names one response twice", "Name each response once.")
    return tuple(found)


def _first(cells: dict[str, str]) -> str:
    """Give the first response of a row as its name."""
    return Path(cells["response"].split(";")[0].strip()).as_posix()


def _scan_file(folder: Path, relative: str, column: str, cache: Path | None) -> ScanFile:
    """Find the file, or the one DICOM series of a folder, that a cell names."""
    if "\0" in relative:
        raise _RowError(f"has a {column} that is no path", "Correct the path.")
    path = folder / relative
    try:
        if path.is_dir():
            return _series(path, relative, column, cache)
        if not path.exists():
            raise _RowError(
                f"names the {column} {relative}, which does not exist",
                f"Correct the path (it is taken from {folder}), or drop the row.",
            )
    except OSError as error:
        raise _RowError(
            f"names the {column} {relative[:200]}, which cannot be opened ({error.strerror})",
            "Correct the path, or drop the row.",
        ) from None
    kind = detect(path)
    if kind is None:
        raise _RowError(
            f"names the {column} {relative}, which is of no known scan format",
            "Give NIfTI, DICOM, PNG, JPEG, TIFF, npy, NRRD or MHA.",
        )
    return ScanFile((path,), kind)


def _series(path: Path, relative: str, column: str, cache: Path | None) -> ScanFile:
    files = [path / name for name in list_files(path)]
    dicom = [file for file in files if detect(file) == "dicom"]
    series, faults = grouped(path, dicom, cache) if dicom else ([], [])
    if len(series) == 1 and not faults:
        return series[0].file
    if series:
        inside = f"{len(series)} DICOM series ({listed(series_names(path, series))})"
        bad = f" and {len(faults)} unusable files ({faults[0].reason})" if faults else ""
        raise _RowError(
            f"names the {column} {relative}, a folder with {inside}{bad}",
            "Give the folder of one series.",
        )
    reason = f": {faults[0].reason}" if faults else ""
    raise _RowError(
        f"names the {column} {relative}, a folder without a usable DICOM series{reason}",
        "Give a file, or the folder of one series.",
    )


def _owner(image: str) -> tuple[str, str]:
    """Tell subject and study of a row that does not, from its path."""
    place, _, name = Path(image).as_posix().rpartition("/")
    parts = [part for part in place.split("/") if part not in ("", ".", "..")]
    return owner("/".join(parts), name)


def _with_patients(
    folder: Path, sources: list[Source], ownerless: set[str], cache: Path | None
) -> list[Source]:
    """Fill in subjects and studies from DICOM headers: of all rows together, as pseudonyms depend on all studies."""
    paths = {
        path
        for source in sources
        if source.name in ownerless
        for file in source.channels
        if file.format == "dicom"
        for path in file.paths
    }
    series, _ = grouped(folder, sorted(paths), cache)
    known = {path: each for each in series if each.subject for path in each.file.paths}
    filled = []
    for source in sources:
        each = known.get(source.channels[0].path) if source.name in ownerless else None
        if each is not None:
            study = each.study or each.subject
            source = replace(source, subject=each.subject, study=study)
            source = replace(source, modality=source.modality or each.modality)
        filled.append(source)
    return filled


def _number(cells: dict[str, str], column: str) -> float | None:
    text = cells.get(column)
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise _RowError(
            f"has the {column} {text[:40]!r}, which is no number", "Give a number or nothing."
        )
    return value


def _position(text: str | None) -> tuple[float, ...] | None:
    """Read where a section lies: three numbers or nine, with blanks, commas or semicolons between them."""
    if not text:
        return None
    try:
        numbers = tuple(float(word) for word in re.split(r"[\s,;]+", text))
    except ValueError:
        numbers = ()
    if len(numbers) not in (3, 9) or not all(map(math.isfinite, numbers)):
        raise _RowError(
            f"has the position {text[:40]!r}, which is neither three numbers nor nine",
            "Give x y z of a patch, or origin, width and height of a section: ox oy oz ux uy uz vx vy vz.",
        )
    return numbers


def _report(folder: Path, text: str | None) -> str | None:
    """Give the text of a report; a cell that names a text file stands for its content."""
    if not text or "\n" in text or not text.lower().endswith(_REPORT_SUFFIXES) or len(text) > 1024:
        return text
    path = folder / text
    if not path.is_file():
        if " " in text:
            return text
        raise _RowError(f"names the report {text}, which does not exist", "Correct the path.")
    try:
        return path.read_text(encoding="utf-8-sig").strip()
    except (OSError, UnicodeDecodeError):
        raise _RowError(
            f"names the report {text}, which is no readable UTF-8 text", "Save it as UTF-8."
        ) from None
