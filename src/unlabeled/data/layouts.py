"""What every layout of scans shares: candidate files, names, subjects by folder, masks in a folder beside the images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unlabeled.data.formats.detection import BY_SUFFIX, by_name, detect
from unlabeled.data.scan import Quarantined, Source
from unlabeled.data.walk import Listing
from unlabeled.errors import DataError

IMAGE_FOLDERS = frozenset({"images", "image", "imgs", "img", "imagestr", "imagests"})
MASK_FOLDERS = frozenset({"labels", "label", "masks", "mask", "instances", "labelstr", "labelsts"})
SPLITS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
GENERIC = (
    IMAGE_FOLDERS
    | MASK_FOLDERS
    | frozenset(SPLITS)
    | frozenset({"data", "raw", "scans", "volumes", "slices", "frames", "dicom", "dcm", "nifti"})
)
FOLDER_RULE = (
    "subject = the first folder below the given one (train, val, test, images, data and the like do not count), "
    "study = the folder within it; a file without such a folder is a subject of its own"
)
STEM_RULE = (
    "each file is a subject of its own, named by its stem; beginnings that stems share are not taken for a subject "
    "(a manifest with a column `subject` says what belongs together)"
)

Candidates = dict[str, list[tuple[str, str]]]


@dataclass(slots=True)
class Found:
    """What a layout gives: the parts of an `Index`."""

    layout: str
    rule: str
    sources: Sequence[Source] = ()
    quarantine: list[Quarantined] = field(default_factory=list)
    label_names: dict[int, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def candidates(listing: Listing) -> tuple[Candidates, Counter[str], dict[str, str]]:
    """Pick the scans among the listed files.

    Returns
    -------
    tuple
        Name and format by folder; how many others there are by suffix; and of the files whose name does not tell,
        scans or not, the format that a look into them gave, ``""`` for none.
    """
    picked: Candidates = {}
    others: Counter[str] = Counter()
    looked_into: dict[str, str] = {}
    root = str(listing.root)
    for folder, names in listing.entries.items():  # this loop sees millions of names
        prefix = f"{folder}/" if folder else ""
        scans: list[tuple[str, str]] = []
        for name in names:
            if name.endswith(".nii.gz"):
                scans.append((name, "nifti"))
                continue
            suffix = name[name.rfind(".") :]
            kind = BY_SUFFIX.get(suffix)
            if kind is None:
                suffix = suffix.lower() if "." in name[1:] else ""
                kind = by_name(name)
            if kind is None:
                kind = detect(Path(f"{root}/{prefix}{name}")) or ""
                looked_into[prefix + name] = kind
            if not kind:
                others[suffix if 0 < len(suffix) < 12 else "no suffix"] += 1
            else:
                scans.append((name, kind))
        if scans:
            picked[folder] = scans
    return picked, others, looked_into


def stem(name: str) -> str:
    """Take a file's name without folder and suffix.

    >>> stem("p07/ct.v2.nii.gz"), stem("a.png"), stem("1.2.840")
    ('ct.v2', 'a', '1.2.840')
    """
    last = name.rpartition("/")[2]
    if last.lower().endswith(".nii.gz"):
        return last[:-7]
    head, dot, tail = last.rpartition(".")
    return head if dot and head and not tail.isdigit() else last


def split_of(folder: str) -> str | None:
    """Read train, val or test from a folder's path, where one part says so.

    >>> split_of("set/Training/images")
    'train'
    """
    for part in folder.split("/"):
        if part.lower() in SPLITS:
            return SPLITS[part.lower()]
    return None


def owner(folder: str, name: str) -> tuple[str, str]:
    """Tell subject and study of a file from its folder, by `FOLDER_RULE`.

    >>> owner("train/p07/visit2/anat", "t1.nii.gz")
    ('p07', 'p07/visit2')
    >>> owner("train/images", "p07_t1.nii.gz")
    ('p07_t1', 'p07_t1')
    """
    kept = [part for part in folder.split("/") if part and part.lower() not in GENERIC]
    if not kept:
        return stem(name), stem(name)
    return kept[0], "/".join(kept[:2])


def mask_place(folder: str) -> tuple[str, str] | None:
    """Split the path of a folder of masks into what lies above and below ``labels/`` (or ``masks/``); None for others.

    >>> mask_place("train/labels/p07"), mask_place("train/images/p07")
    (('train', 'p07'), None)
    """
    return _place(folder, MASK_FOLDERS)


def image_place(folder: str) -> tuple[str, str]:
    """Split the path of a folder of images likewise; one without ``images/`` lies above it all."""
    return _place(folder, IMAGE_FOLDERS) or (folder, "")


def _place(folder: str, names: frozenset[str]) -> tuple[str, str] | None:
    parts = folder.split("/")
    for at, part in enumerate(parts):
        if part.lower() in names:
            return "/".join(parts[:at]), "/".join(parts[at + 1 :])
    return None


def describe_others(others: Counter[str]) -> list[str]:
    """Say which files were passed over, most frequent kinds first."""
    if not others:
        return []
    listed = [f"{count} {suffix}" for suffix, count in others.most_common(8)]
    rest = len(others) - len(listed)
    more = f" and {rest} more kinds" if rest > 0 else ""
    total = others.total()
    return [
        f"{total} {'file' if total == 1 else 'files'} passed over as no scans: {', '.join(listed)}{more}"
    ]


def read_label_names(labels: Any, where: Path) -> tuple[dict[int, str], list[str]]:
    """Read the names of a mask's values from ``dataset.json``, in either direction: name to value or value to name.

    Raises
    ------
    DataError
        When there are entries of neither kind.
    """
    if labels is None:
        return {}, []
    if not isinstance(labels, dict):
        raise DataError(
            f"{where} has `labels` that are no object",
            'Write them as {"background": 0, "tumour": 1}.',
        )
    names: dict[int, str] = {}
    notes: list[str] = []
    for key, value in labels.items():
        if isinstance(value, bool) or value is None:
            pass
        elif isinstance(value, int):
            names[value] = str(key)
            continue
        elif isinstance(value, list):
            notes.append(f"label {key!r} of {where.name} is a region of several values; left aside")
            continue
        elif isinstance(value, str):
            pair = (value, key) if not _whole(key) and _whole(value) else (key, value)
            if _whole(pair[0]):
                names[int(pair[0])] = pair[1]
                continue
        raise DataError(
            f"{where} has the label {key!r}: {value!r}, which is no pair of a name and a whole number",
            'Write labels as {"background": 0, "tumour": 1}.',
        )
    return dict(sorted(names.items())), notes


def _whole(text: str) -> bool:
    return text.strip().lstrip("-").isdigit()


def listed(items: Iterable[str], limit: int = 3) -> str:
    """Name the first few of many.

    >>> listed(["a", "b", "c", "d", "e"])
    'a, b, c and 2 more'
    """
    every = list(items)
    head = ", ".join(every[:limit])
    return head if len(every) <= limit else f"{head} and {len(every) - limit} more"
