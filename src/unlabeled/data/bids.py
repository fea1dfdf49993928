"""Scans in a BIDS data set: subject, session and contrast from the names; derivatives are left aside."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from unlabeled.data.layouts import Candidates, Found
from unlabeled.data.lazy import FileSources
from unlabeled.data.scan import ScanFile, Source
from unlabeled.data.walk import Listing
from unlabeled.errors import DataError

RULE = "subject = the BIDS name sub-…, study = its session ses-… where there is one; modality = the BIDS suffix"
_MASKS = frozenset({"mask", "dseg", "probseg"})
_NO_IMAGE_FOLDERS = frozenset({"eeg", "ieeg", "meg", "beh", "motion", "nirs"})
_DATATYPES = frozenset(
    {"anat", "func", "dwi", "fmap", "perf", "pet", "micr", "mrs", "ct", *_NO_IMAGE_FOLDERS}
)


def is_bids(listing: Listing) -> bool:
    """Recognise a BIDS data set: folders ``sub-…`` that hold files, at the top."""
    return any(
        folder.startswith("sub-") and "/" in folder and _datatype(folder)
        for folder in listing.entries
    ) or ("dataset_description.json" in listing.entries.get("", ()) and _has_subjects(listing))


def from_bids(
    listing: Listing, picked: Candidates, kinds: Mapping[str, str], *, labelled: bool
) -> Found:
    """Find the scans of a BIDS data set; `kinds` as in `FileSources`.

    Raises
    ------
    DataError
        With `labelled`: BIDS has no one place for masks.
    """
    if labelled:
        raise DataError(
            f"{listing.root} is a BIDS data set, which does not say what its labels are",
            "Give a manifest (.csv) with the columns image, subject and mask, label or target.",
        )
    found = Found("bids", RULE)
    items: list[str | Source] = []
    elsewhere = masks = unnamed = 0
    for folder in sorted(picked):
        parts = folder.split("/")
        if not parts[0].startswith("sub-"):
            elsewhere += len(picked[folder])
            continue
        for name, _ in picked[folder]:
            if _suffix(name) in _MASKS or parts[-1] in _NO_IMAGE_FOLDERS:
                masks += 1
                continue
            unnamed += not name.startswith(parts[0] + "_")
            items.append(f"{folder}/{name}")
    found.sources = FileSources(listing.root, items, kinds, bids_source)
    if elsewhere:
        found.notes.append(
            f"{elsewhere} images outside the folders sub-… (derivatives, source data) are not taken as scans"
        )
    if masks:
        found.notes.append(f"{masks} masks and non-images by BIDS name are not taken as scans")
    if unnamed:
        found.notes.append(
            f"{unnamed} scans in folders sub-… do not carry the BIDS name of their subject; their contrast is unknown"
        )
    return found


def bids_source(root: Path, name: str, kind: str) -> Source:
    """Make the source of a file in a BIDS data set, whose names say whose it is and of what contrast."""
    parts = name.split("/")
    subject, last = parts[0], parts[-1]
    return Source(
        name=name,
        channels=(ScanFile((root / name,), kind),),
        subject=subject,
        study=f"{subject}/{parts[1]}"
        if len(parts) > 2 and parts[1].startswith("ses-")
        else subject,
        modality=_suffix(last) if last.startswith(f"{subject}_") else "",
    )


def _suffix(name: str) -> str:
    """Take the BIDS suffix of a file's name: ``T1w`` of ``sub-1_T1w.nii.gz``."""
    return name.partition(".")[0].rpartition("_")[2]


def _datatype(folder: str) -> bool:
    """Tell whether a folder is ``sub-…/anat`` or ``sub-…/ses-…/anat``, of any data type."""
    parts = folder.split("/")
    depth = 3 if parts[1].startswith("ses-") else 2
    return len(parts) == depth and parts[-1] in _DATATYPES


def _has_subjects(listing: Listing) -> bool:
    return any(folder.startswith("sub-") for folder in listing.entries)
