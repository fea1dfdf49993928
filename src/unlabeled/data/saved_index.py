"""The index of a folder kept beside its listing, so that one unchanged costs a look at its folders and no more.

What is saved: the identities of all folders as the listing has them, the names of the files that are scans in the order
of the index, and what the index says about the whole.  Not saved: sources, which are made from the names when asked
for.  A saved index counts only while every folder is what it was (`walk.unchanged`) and every file whose name does not
tell its format is still found to be of that format; else the scans are picked anew.  DICOM, labelled sets and
nnU-Net raw data sets are never saved: what their index says stands in files, whose changes leave no trace in a folder.
"""

from __future__ import annotations

import contextlib
import functools
import os
from array import array
from collections.abc import Iterator, Mapping
from hashlib import blake2b
from pathlib import Path

from unlabeled.data import walk
from unlabeled.data.bids import bids_source
from unlabeled.data.formats.detection import detect
from unlabeled.data.layouts import Found
from unlabeled.data.lazy import FileSources, PackedNames, plain_source
from unlabeled.data.sealed import load_sealed, save_sealed
from unlabeled.data.walk import Key, Listing

_PICKERS = (
    *("walk", "formats/detection", "layouts", "index", "folders", "bids", "nnunet", "rows"),
    *("lazy", "saved_index"),  # how it is packed
)
_MAKERS = {"folder": plain_source, "bids": bids_source}


def save_index(cache: Path, listing: Listing, looked_into: Mapping[str, str], found: Found) -> None:
    """Save what was found in a folder without labels, where the listing and the names alone say it.

    Parameters
    ----------
    cache
        Folder of saved listings.
    listing, looked_into
        What it was found from; see `candidates`.
    found
        What to save; where it cannot be, an earlier one is removed.
    """
    where = walk.place(cache, listing.root, ".idx")
    packed = None
    folders = list(listing.identities or ())
    if (
        folders
        and len(listing) >= walk.SAVED_FROM
        and isinstance(found.sources, FileSources)
        and not (found.quarantine or found.label_names)
    ):
        packed = PackedNames.pack(found.sources.items, folders)
    if packed is None or listing.identities is None:
        with contextlib.suppress(OSError):
            where.unlink()
        return
    head = {"layout": found.layout, "rule": found.rule, "notes": found.notes}
    places, counts, names = packed
    parts = [
        array("Q", (number for key in listing.identities.values() for number in key)).tobytes(),
        os.fsencode("\0".join(folders)),
        places.tobytes(),
        counts.tobytes(),
        names,
    ]
    save_sealed(where, _mark(), {**head, "looked_into": dict(looked_into)}, parts)


def load_index(cache: Path, root: Path) -> Found | None:
    """Load what was found in a folder without labels; None where nothing is saved or anything has changed."""
    sealed = load_sealed(walk.place(cache, root, ".idx"), _mark())
    if sealed is None:
        return None
    head, (keys, paths, places, counts, names) = sealed
    folders = os.fsdecode(paths).split("\0")
    if not walk.unchanged(root, zip(folders, _keys(keys), strict=True)):
        return None
    looked_into: dict[str, str] = head["looked_into"]
    if any((detect(root / name) or "") != kind for name, kind in looked_into.items()):
        return None
    items = PackedNames(folders, array("Q", places), array("Q", counts), names)
    return Found(
        layout=head["layout"],
        rule=head["rule"],
        sources=FileSources(root, items, looked_into, _MAKERS[head["layout"]]),
        notes=head["notes"],
    )


@functools.cache
def _mark() -> bytes:
    """Name the kind of file and the code that picks scans: other code may pick others, or say it in other words."""
    here = Path(__file__).parent
    try:
        code = b"".join((here / f"{name}.py").read_bytes() for name in _PICKERS)
    except OSError:
        code = os.urandom(16)  # a package without its sources trusts no index of another process
    return f"unlabeled index 1 {blake2b(code, digest_size=8).hexdigest()}\n".encode()


def _keys(saved: bytes) -> Iterator[Key]:
    numbers = array("Q", saved)
    return zip(numbers[0::4], numbers[1::4], numbers[2::4], numbers[3::4], strict=True)
