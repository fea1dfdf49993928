"""Readers: files of seven families become scans in RAS order, with integers kept and geometry attached.

No reader imports torch, and each is imported when its first file comes.  Whatever is wrong with a file is a
`ScanError` that names the file, the fact and the remedy.
"""

from unlabeled.data.formats.contents import Header, Series
from unlabeled.data.formats.detection import detect
from unlabeled.data.formats.masks import read_mask, write_mask
from unlabeled.data.formats.reading import group_series, read_header, read_scan

__all__ = [
    "Header",
    "Series",
    "detect",
    "group_series",
    "read_header",
    "read_mask",
    "read_scan",
    "write_mask",
]
