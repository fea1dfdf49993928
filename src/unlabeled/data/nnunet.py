"""Scans in an nnU-Net raw data set: channels joined, labels and their names read from ``dataset.json``."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

from unlabeled.data.layouts import Candidates, Found, listed, read_label_names, stem
from unlabeled.data.scan import Quarantined, ScanFile, Source
from unlabeled.data.walk import Listing
from unlabeled.errors import DataError

RULE = "subject and study = the nnU-Net case; channels of a case are registered modalities"
_CHANNEL = re.compile(r"^(?P<case>.+)_(?P<channel>\d{4})$")
_IMAGES = {"imagesTr": "labelsTr", "imagesTs": "labelsTs", "imagesVal": "labelsVal"}
_SPLITS = {"imagesTr": "train", "imagesTs": "test", "imagesVal": "val"}


def is_nnunet(listing: Listing) -> bool:
    """Recognise an nnU-Net raw (or Decathlon) data set: ``dataset.json`` and ``imagesTr`` or ``imagesTs``."""
    tops = {folder.partition("/")[0] for folder in listing.entries}
    return "dataset.json" in listing.entries.get("", ()) and not tops.isdisjoint(_IMAGES)


def from_nnunet(listing: Listing, picked: Candidates, *, labelled: bool) -> Found:
    """Find the cases of an nnU-Net raw data set; with `labelled`, those that have a mask.

    Raises
    ------
    DataError
        When ``dataset.json`` cannot be read.
    """
    where = listing.root / "dataset.json"
    about = read_dataset(where)
    found = Found("nnunet", RULE)
    found.label_names, notes = read_label_names(about.get("labels"), where)
    found.notes.extend(notes)
    names = _channel_names(about)
    if names and any(_CHANNEL.match(stem(name)) for name, _ in picked.get("imagesTr", ())):
        expected = len(names)
    else:
        expected = 0
    sources: list[Source] = []
    for folder, labels in _IMAGES.items():
        masks = {stem(name): (name, kind) for name, kind in picked.get(labels, ())}
        cases = _cases(listing, picked.get(folder, []), folder)
        for case in sorted(cases):
            channels = cases[case]
            name = f"{folder}/{case}"
            if expected and sorted(channels) != list(range(expected)):
                has = ", ".join(f"{channel:04d}" for channel in sorted(channels))
                found.quarantine.append(
                    Quarantined(
                        name,
                        f"{name} has the channels {has}, but dataset.json names {expected} ({listed(names)})",
                        "Add the missing files, or correct channel_names in dataset.json.",
                    )
                )
                continue
            mask = masks.pop(case, None)
            if labelled and mask is None:
                if folder == "imagesTr":
                    found.quarantine.append(
                        Quarantined(
                            name,
                            f"{name} has no mask in {labels}",
                            f"Add {labels}/{case}, or leave the case out.",
                        )
                    )
                continue
            sources.append(
                Source(
                    name=name,
                    channels=tuple(channels[number] for number in sorted(channels)),
                    subject=case,
                    study=case,
                    modality=";".join(names),
                    split=_SPLITS[folder],
                    mask=ScanFile((listing.root / labels / mask[0],), mask[1])
                    if labelled and mask
                    else None,
                )
            )
        found.quarantine.extend(
            Quarantined(
                f"{labels}/{file}",
                f"{labels}/{file} has no image in {folder}",
                "Add the image, or remove the mask.",
            )
            for file, _ in masks.values()
            if labelled
        )
    if len({source.split for source in sources}) == 1:
        sources = [replace(source, split=None) for source in sources]
    found.sources = sources
    ignored = sum(
        len(scans)
        for folder, scans in picked.items()
        if folder not in _IMAGES and folder not in _IMAGES.values()
    )
    if ignored:
        found.notes.append(f"{ignored} images outside imagesTr and imagesTs are not taken as scans")
    return found


def read_dataset(where: Path) -> dict[str, Any]:
    """Read ``dataset.json``.

    Raises
    ------
    DataError
        When it is no JSON object.
    """
    try:
        about = json.loads(where.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or getattr(error, "msg", None) or "not UTF-8"
        line = f", line {error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        raise DataError(
            f"{where} cannot be read: {reason}{line}",
            "Correct the file, or give the folder of images.",
        ) from None
    if not isinstance(about, dict):
        raise DataError(
            f"{where} holds no JSON object", "Correct the file, or give the folder of images."
        )
    return about


def _channel_names(about: dict[str, Any]) -> list[str]:
    names = about.get("channel_names", about.get("modality"))
    if not isinstance(names, dict):
        return []
    try:
        return [str(names[key]).replace(";", ",") for key in sorted(names, key=int)]
    except ValueError:
        return []


def _cases(
    listing: Listing, scans: list[tuple[str, str]], folder: str
) -> dict[str, dict[int, ScanFile]]:
    cases: dict[str, dict[int, ScanFile]] = defaultdict(dict)
    for name, kind in scans:
        match = _CHANNEL.match(stem(name))
        case, channel = (match["case"], int(match["channel"])) if match else (stem(name), 0)
        cases[case][channel] = ScanFile((listing.root / folder / name,), kind)
    return cases
