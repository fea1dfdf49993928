"""Which reader a file needs: by its name, or by its first bytes where the name says nothing."""

from __future__ import annotations

import struct
from pathlib import Path

BY_SUFFIX = {
    ".nii": "nifti",
    ".dcm": "dicom",
    ".dicom": "dicom",
    ".dic": "dicom",
    ".ima": "dicom",
    ".png": "picture",
    ".jpg": "picture",
    ".jpeg": "picture",
    ".tif": "tiff",
    ".tiff": "tiff",
    ".npy": "npy",
    ".nrrd": "itk",
    ".nhdr": "itk",
    ".mha": "itk",
    ".mhd": "itk",
}

_MAGIC = (
    (b"\x89PNG\r\n\x1a\n", "picture"),
    (b"\xff\xd8\xff", "picture"),
    (b"II*\x00", "tiff"),
    (b"MM\x00*", "tiff"),
    (b"II+\x00", "tiff"),
    (b"MM\x00+", "tiff"),
    (b"\x93NUMPY", "npy"),
    (b"NRRD000", "itk"),
)


def detect(path: Path) -> str | None:
    """Name the reader of a file, or None when it is no scan.

    The suffix decides, in any case of letters; only names without one, and names that end in a number as DICOM
    exports have them, are opened for their first bytes.  The second file of a pair (``.img`` beside ``.hdr``) and the
    table of contents ``DICOMDIR`` are no scans of their own.

    >>> detect(Path("p07/CT.nii.gz")), detect(Path("p07/notes.txt"))
    ('nifti', None)
    """
    kind = by_name(path.name)
    if kind is not None:
        return kind or None
    suffix = path.suffix.lower()
    return _of_pair(path, suffix) if suffix in (".hdr", ".img") else _by_content(path)


def by_name(name: str) -> str | None:
    """Name the reader of a file by its name alone: ``""`` for no scan, None where only a look into the folder tells.

    >>> by_name("CT.nii.gz"), by_name("notes.txt"), by_name("1.2.840.10008"), by_name("brain.hdr")
    ('nifti', '', None, None)
    """
    name = name.lower()
    if name.startswith("._"):
        return ""  # what macOS leaves beside each file on foreign disks
    if name.endswith(".nii.gz"):
        return "nifti"
    stem, dot, tail = name.rpartition(".")
    suffix = dot + tail if stem else ""
    if suffix in BY_SUFFIX:
        return BY_SUFFIX[suffix]
    if suffix in (".hdr", ".img"):
        return None
    if name == "dicomdir" or name.startswith("."):
        return ""
    return None if not suffix or tail.isdigit() else ""


def _of_pair(path: Path, suffix: str) -> str | None:
    """Tell a NIfTI pair from other files with these suffixes; its header speaks for both."""
    partner = {".hdr": ".img", ".img": ".hdr"}[suffix]
    paired = any(path.with_suffix(s).is_file() for s in (partner, partner.upper()))
    if suffix == ".img":
        return None if paired else "nifti"
    if paired:
        return "nifti"
    return "nifti" if _is_nifti(_first_bytes(path)) else None


def _is_nifti(head: bytes) -> bool:
    """Recognise version 1, whose mark ends the header, and version 2, whose mark follows its length."""
    return head[344:348] in (b"n+1\x00", b"ni1\x00") or head[4:8] in (b"n+2\x00", b"ni2\x00")


def _by_content(path: Path) -> str | None:
    head = _first_bytes(path)
    if head[128:132] == b"DICM":
        return "dicom"
    for magic, name in _MAGIC:
        if head.startswith(magic):
            return name
    if _is_nifti(head):
        return "nifti"
    return "dicom" if _bare_dicom(head) else None


def _bare_dicom(head: bytes) -> bool:
    """Recognise DICOM without its preamble: a first element of group 2 or 8 with a plausible length or type."""
    if len(head) < 8:
        return False
    for order in ("<", ">"):
        group, element = struct.unpack_from(f"{order}HH", head)
        if group in (2, 8) and element <= 0x70:
            explicit = head[4:6].isalpha() and head[4:6].isupper()
            return explicit or struct.unpack_from(f"{order}I", head, 4)[0] <= 256
    return False


def _first_bytes(path: Path) -> bytes:
    """Read what a file begins with; nothing for what is no readable ordinary file."""
    try:
        if not path.is_file():
            return b""
        with path.open("rb") as stream:
            return stream.read(352)
    except OSError:
        return b""
