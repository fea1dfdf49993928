"""From what a person typed to the scans there: a folder, a BIDS or nnU-Net data set, a manifest or one file."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from unlabeled.data.bids import from_bids, is_bids
from unlabeled.data.folders import from_folder
from unlabeled.data.formats import detect
from unlabeled.data.layouts import (
    Found,
    candidates,
    describe_others,
    listed,
    owner,
    read_label_names,
)
from unlabeled.data.manifest import from_manifest
from unlabeled.data.nnunet import from_nnunet, is_nnunet, read_dataset
from unlabeled.data.rows import SUFFIXES
from unlabeled.data.saved_index import load_index, save_index
from unlabeled.data.scan import Index, Quarantined, ScanFile, Source
from unlabeled.data.walk import Listing, collector_paused, list_files, user_cache
from unlabeled.errors import DataError

KINDS = "NIfTI, DICOM, PNG, JPEG, TIFF, npy; NRRD and MHA with the extra `itk`"
LAZY_FROM = 10_000  # scans


def index_scans(path: Path | str, *, labelled: bool = False, cache: Path | None = None) -> Index:
    """Index the scans of a folder at any depth, a BIDS or nnU-Net raw data set, a manifest, or a single file.

    No voxel is read, and of headers only DICOM's, which say what belongs together: a file that turns out to be
    unreadable is named by `check`, and by the store when it is prepared.  Whose scan it is follows `Index.rule`.

    Parameters
    ----------
    path
        What the person typed.
    labelled
        Whether to pair scans with masks, labels or targets; scans without any are quarantined.
    cache
        Folder where listings and indices of large folders and groups of DICOM files are kept; the user's cache by
        default.

    Raises
    ------
    DataError
        When there is nothing usable; it says what was seen and what to do.
    """
    path = Path(path).expanduser()
    cache = (user_cache() if cache is None else cache) / "index"
    try:
        is_folder, is_file = path.is_dir(), path.is_file()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is no path"
        raise DataError(f"{path} cannot be opened: {reason}", "Correct the path.") from None
    if is_folder:
        found = _in_folder(path, labelled=labelled, cache=cache)
    elif not is_file:
        what = "is a broken link" if path.is_symlink() else "does not exist"
        what = "is neither a file nor a folder" if path.exists() else what
        raise DataError(f"{path} {what}", "Give a folder of scans, a manifest or a scan.")
    elif path.suffix.lower() in SUFFIXES:
        found = from_manifest(path, labelled=labelled, cache=cache)
    else:
        found = _single(path, labelled=labelled)
    if not found.sources:
        raise _nothing_usable(path, found)
    return Index(
        root=path,
        sources=found.sources if len(found.sources) > LAZY_FROM else tuple(found.sources),
        quarantine=tuple(sorted(found.quarantine, key=lambda row: row.name)),
        rule=found.rule,
        layout=found.layout,
        label_names=found.label_names,
        notes=tuple(found.notes),
    )


def _in_folder(path: Path, *, labelled: bool, cache: Path) -> Found:
    """List a folder and let the layout that it has find the scans, unless all is as it was the last time."""
    saved = None if labelled else load_index(cache, path)
    if saved is not None:
        return saved
    listing = list_files(path, cache=cache)
    with collector_paused():
        picked, others, looked_into = candidates(listing)
    if is_nnunet(listing):
        found = from_nnunet(listing, picked, labelled=labelled)
    elif is_bids(listing):
        found = from_bids(listing, picked, looked_into, labelled=labelled)
    else:
        found = from_folder(listing, picked, looked_into, labelled=labelled, cache=cache)
        if labelled and "dataset.json" in listing.entries.get("", ()):
            where = path / "dataset.json"
            found.label_names, notes = read_label_names(read_dataset(where).get("labels"), where)
            found.notes.extend(notes)
    _tell_listing(listing, others, found)
    if not labelled:
        save_index(cache, listing, looked_into, found)
    return found


def _tell_listing(listing: Listing, others: Counter[str], found: Found) -> None:
    """Carry over what the listing met: folders that may not be read, links, files of other kinds."""
    found.quarantine.extend(
        Quarantined(folder, f"{folder} cannot be listed: {reason}", f"chmod u+rx '{folder}'")
        for folder, reason in listing.unreadable
    )
    found.quarantine.extend(
        Quarantined(link, f"{link} is a link that leads nowhere", "Mend or remove the link.")
        for link in listing.broken
    )
    if listing.loops:
        found.notes.append(
            f"{len(listing.loops)} links to folders that were listed already, followed once: {listed(listing.loops)}"
        )
    found.notes.extend(describe_others(others))
    tables = [
        name
        for name in listing.entries.get("", ())
        if found.layout == "folder" and Path(name).suffix.lower() in SUFFIXES
    ]
    if tables:
        found.notes.append(
            f"{listed(tables)} {'was' if len(tables) == 1 else 'were'} not read; a manifest is given by its own path"
        )


def _single(path: Path, *, labelled: bool) -> Found:
    """Take a single file as the one scan."""
    kind = detect(path)
    if kind is None:
        remedy = f"Give a folder, a manifest (.csv, .jsonl, .parquet) or a scan: {KINDS}."
        if path.suffix.lower() in (".zip", ".tar", ".tgz", ".gz", ".7z", ".rar"):
            remedy = "Unpack it, and give the folder."
        raise DataError(f"{path} is no scan and no manifest", remedy)
    if labelled:
        raise DataError(
            f"{path} is a single scan without labels",
            "Give a folder with images/ and labels/, an nnU-Net raw data set or a manifest.",
        )
    subject, study = owner("", path.name)
    found = Found("folder", "subject and study = the file's stem")
    file = ScanFile((path,), kind)
    found.sources = (Source(name=path.name, channels=(file,), subject=subject, study=study),)
    return found


def _nothing_usable(path: Path, found: Found) -> DataError:
    """Say what was seen where nothing could be used."""
    lines = [f"{path} holds nothing usable"]
    reasons = Counter(row.reason for row in found.quarantine)
    if reasons:
        count = len(found.quarantine)
        lines[0] += f": {count} {'file is' if count == 1 else 'files are'} left out"
        lines += [f"  {reason}" for reason, _ in reasons.most_common(10)]
        if len(reasons) > 10:
            lines.append(f"  and {len(reasons) - 10} more")
        remedy = next((row.remedy for row in found.quarantine if row.remedy), "")
    else:
        lines += [f"  {note}" for note in found.notes]
        remedy = ""
        if not found.notes:
            lines[0] = f"{path} holds no files"
    return DataError(
        "\n".join(lines), remedy or f"Give a folder with scans ({KINDS}) or a manifest."
    )
