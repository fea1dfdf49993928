"""Scans in a plain folder: any depth, mixed formats, DICOM by series, masks beside images told apart."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from unlabeled.data.formats import Series
from unlabeled.data.grouping import grouped
from unlabeled.data.layouts import (
    FOLDER_RULE,
    STEM_RULE,
    Candidates,
    Found,
    image_place,
    listed,
    mask_place,
    owner,
    split_of,
    stem,
)
from unlabeled.data.lazy import FileSources
from unlabeled.data.scan import Quarantined, ScanFile, Source
from unlabeled.data.walk import Listing, collector_paused
from unlabeled.errors import DataError

DICOM_RULE = "subject and study = pseudonyms of the patient and study in the DICOM headers"
_LIKE_MASK = re.compile(
    r"_(?:d?seg|segmentation|masks?|labels?|lesions?)\.[^/\0]+(?=\0|\Z)", re.IGNORECASE
)
_FEW, _MANY = 5, 20  # so few subjects with so many scans each are rather classes or sites


def from_folder(
    listing: Listing,
    picked: Candidates,
    kinds: Mapping[str, str],
    *,
    labelled: bool,
    cache: Path | None,
) -> Found:
    """Find the scans of a plain folder; with `labelled`, those with a mask of equal stem; `kinds` as in `FileSources`.

    Raises
    ------
    DataError
        With `labelled`, when there is no folder of masks beside the images.
    """
    masks = _masks(picked)
    by_folder = any(owner(folder, "")[0] for folder in picked if folder not in masks)
    rule = FOLDER_RULE if by_folder else STEM_RULE
    found = Found("folder", rule)
    root = listing.root
    with collector_paused():
        items = _plain_files(picked, masks)
    plain = len(items)
    items.extend(_series(root, picked, masks, cache, found))
    if len(items) > plain:
        found.rule = f"{DICOM_RULE}; other files: {rule}" if plain else DICOM_RULE
        items.sort(key=lambda item: item if isinstance(item, str) else item.name)
    else:
        items.sort()  # texts alone, which sort three times faster without a key
    found.sources = FileSources(root, items, kinds)
    if labelled:
        found.sources = _pair(listing, picked, masks, found)
    elif masks:
        count = sum(len(picked[folder]) for folder in masks)
        found.notes.append(f"{count} masks in {listed(sorted(masks))} are not taken as scans")
    _doubts(found, items)
    return found


def _masks(picked: Candidates) -> set[str]:
    """Find the folders of masks: ``labels/``, ``masks/``, ... with images of equal stems beside or above."""
    suspects = [(folder, place) for folder in picked if (place := mask_place(folder)) is not None]
    if not suspects:
        return set()
    images: dict[tuple[str, str], set[str]] = defaultdict(set)
    for folder, scans in picked.items():
        if mask_place(folder) is None:
            place = image_place(folder)
            images[place].update(stem(name) for name, _ in scans)
            if place[1]:  # images/p07/*.dcm beside labels/p07.nii.gz
                above, _, last = place[1].rpartition("/")
                images[place[0], above].add(last)
    return {
        folder
        for folder, place in suspects
        if any(
            stem(name) in images[place] or f"{stem(name)}_0000" in images[place]
            for name, _ in picked[folder]
        )
    }


def _plain_files(picked: Candidates, masks: set[str]) -> list[str | Source]:
    """List the files other than DICOM."""
    items: list[str | Source] = []
    for folder, scans in picked.items():
        if folder in masks:
            continue
        prefix = f"{folder}/" if folder else ""
        items.extend(prefix + name for name, kind in scans if kind != "dicom")
    return items


def _series(
    root: Path, picked: Candidates, masks: set[str], cache: Path | None, found: Found
) -> list[Source]:
    """Make one source a DICOM series."""
    paths = [
        root / folder / name
        for folder, scans in picked.items()
        if folder not in masks
        for name, kind in scans
        if kind == "dicom"
    ]
    if not paths:
        return []
    series, faults = grouped(root, paths, cache)
    found.quarantine.extend(faults)
    names = series_names(root, series)
    sources = []
    for one, name in zip(series, names, strict=True):
        folder = one.file.path.relative_to(root).parent.as_posix()
        folder = "" if folder == "." else folder
        subject, study = owner(folder, one.file.path.name)
        sources.append(
            Source(
                name=name,
                channels=(one.file,),
                subject=one.subject or subject,
                study=one.study or one.subject or study,
                modality=one.modality,
                split=split_of(folder),
            )
        )
    return sources


def series_names(root: Path, series: list[Series]) -> list[str]:
    """Name each series by its folder where it is the only one there, else by its first file."""
    within: dict[Path, int] = defaultdict(int)
    for one in series:
        for folder in {path.parent for path in one.file.paths}:
            within[folder] += 1
    names = []
    for one in series:
        folders = {path.parent for path in one.file.paths}
        folder = next(iter(folders))
        whole = len(folders) == 1 and within[folder] == 1 and len(one.file.paths) > 1
        first = folder if whole and folder != root else min(one.file.paths)
        names.append(first.relative_to(root).as_posix())
    return names


def _pair(listing: Listing, picked: Candidates, masks: set[str], found: Found) -> list[Source]:
    """Give each source its mask, by equal place and stem; quarantine what has no partner."""
    if not masks:
        raise DataError(
            f"{listing.root} has no labelled scans",
            "Give a folder with images/ and labels/ (or masks/) of equal stems, an nnU-Net raw data set, "
            "or a manifest with a column mask, label or target.",
        )
    by_place: dict[tuple[str, str, str], list[tuple[str, str]]] = defaultdict(list)
    for folder in sorted(masks):
        place = mask_place(folder) or ("", "")
        for name, kind in picked[folder]:
            by_place[(*place, stem(name))].append((f"{folder}/{name}" if folder else name, kind))
    paired: list[Source] = []
    used: set[tuple[str, str, str]] = set()
    for source in found.sources:
        folder = source.name.rpartition("/")[0]
        key = (*image_place(folder), stem(source.name))
        options = by_place.get(key, [])
        if len(options) == 1 and key not in used:
            relative, kind = options[0]
            used.add(key)
            paired.append(replace(source, mask=ScanFile((listing.root / relative,), kind)))
            continue
        reason = "has no mask of equal stem"
        if len(options) > 1:
            reason = f"has {len(options)} masks: {listed(path for path, _ in options)}"
            used.add(key)
        elif options:
            reason = "is the second image with the stem of one mask"
        found.quarantine.append(
            Quarantined(
                source.name, f"{source.name} {reason}", "Give it one mask, or leave it out."
            )
        )
    for key, options in by_place.items():
        if key not in used:
            found.quarantine.extend(
                Quarantined(
                    path, f"{path} has no image of equal stem", "Add the image, or remove it."
                )
                for path, _ in options
            )
    if any("instances" in folder.lower().split("/") for folder in masks):
        found.notes.append("instances/ numbers objects: its values are no classes")
    found.rule += "; masks = files of equal stem in labels/ (or masks/)"
    return paired


def _doubts(found: Found, items: list[str | Source]) -> None:
    """Note what looks like a misunderstanding: masks among the scans, classes or sites taken for people."""
    names = [item if isinstance(item, str) else item.name for item in items]
    text = "\0".join(names)  # one search over all is many times faster than one a name
    alike = [
        text[text.rfind("\0", 0, match.start()) + 1 : match.end()]
        for match in _LIKE_MASK.finditer(text)
    ]
    if 0 < len(alike) < len(names):
        found.notes.append(
            f"{len(alike)} of the scans may be masks by their names ({listed(alike, 1)}); "
            "a manifest, or a folder labels/ beside images/, tells them apart"
        )
    if len(names) < _MANY or all("/" not in name for name in names):
        return
    subjects: set[str] = set()
    before = None
    for item, name in zip(items, names, strict=True):
        folder, _, last = name.rpartition("/")
        if folder == before and isinstance(item, str) and owner(folder, "")[0]:
            continue  # sorted: the files of one folder follow each other
        before = folder
        subjects.add(owner(folder, last)[0] if isinstance(item, str) else item.subject)
        if len(subjects) >= _FEW:
            return
    if len(names) >= _MANY * len(subjects):
        found.notes.append(
            f"only {len(subjects)} {'subject' if len(subjects) == 1 else 'subjects'} for "
            f"{len(names)} scans: if the folders are classes, sites or a wrapping folder rather than "
            "people, give the inner folder or a manifest with a `subject` column"
        )
