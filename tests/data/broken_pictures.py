"""The part of the corpus of broken input that holds pictures, TIFF and NumPy files; see `broken.py`."""

from __future__ import annotations

import zlib
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np


def cases(make: ModuleType) -> dict[str, Any]:
    """Give the cases by name."""
    found: dict[str, Any] = {}

    def case(ends: str, says: str = "") -> Any:
        def enter(function: Any) -> Any:
            found[function.__name__] = make.Case(function, ends, says)
            return function

        return enter

    @case("read")
    def palette_picture(folder: Path) -> Any:
        return make.picture(folder / "p.png", make.voxels(20, 30, 3, dtype=np.uint8), "P")

    @case("read")
    def picture_of_16_bit(folder: Path) -> Any:
        return make.picture(folder / "p.png", make.voxels(20, 30, dtype=np.uint16) * 300)

    @case("read")
    def picture_with_alpha(folder: Path) -> Any:
        return make.picture(folder / "p.png", make.voxels(20, 30, 4, dtype=np.uint8))

    @case("read")
    def grey_with_alpha(folder: Path) -> Any:
        return make.picture(folder / "p.png", make.voxels(20, 30, dtype=np.uint8), "LA")

    @case("read")
    def picture_of_one_bit(folder: Path) -> Any:
        return make.picture(folder / "p.png", make.voxels(20, 30, dtype=np.uint8), "1")

    @case("read")
    def print_colours(folder: Path) -> Any:
        return make.picture(folder / "p.jpg", make.voxels(20, 30, 3, dtype=np.uint8), "CMYK")

    @case("refused", "damaged")
    def truncated_picture(folder: Path) -> Any:
        return make.cut(make.picture(folder / "p.png", make.voxels(64, 64, dtype=np.uint8)))

    @case("refused", "damaged")
    def truncated_jpeg(folder: Path) -> Any:
        return make.cut(make.picture(folder / "p.jpg", make.voxels(64, 64, 3, dtype=np.uint8)))

    @case("refused", "damaged")
    def gif_named_png(folder: Path) -> Any:
        return make.picture(folder / "p.png", make.voxels(20, 30, dtype=np.uint8), format="GIF")

    @case("refused", "more pixels")
    def picture_bomb(folder: Path) -> Any:
        path = make.picture(folder / "p.png", make.voxels(20, 30, dtype=np.uint8))
        size = np.array([60000, 60000], ">u4").tobytes()
        head = b"IHDR" + size + path.read_bytes()[24:29]
        return make.patched(path, 12, head + zlib.crc32(head).to_bytes(4, "big"))

    @case("read")
    def tiff_pages(folder: Path) -> Any:
        return make.tiff(folder / "t.tif", make.voxels(5, 20, 30, dtype=np.uint16))

    @case("read")
    def tiff_pages_of_several_sizes(folder: Path) -> Any:
        make.tiff(folder / "t.tif", make.voxels(20, 30, dtype=np.uint8))
        return make.tiff(folder / "t.tif", make.voxels(10, 15, dtype=np.uint8), append=True)

    @case("read")
    def tiff_compressed_by_lzw(folder: Path) -> Any:
        return make.picture(
            folder / "t.tif", make.voxels(20, 30, dtype=np.uint8), compression="tiff_lzw"
        )

    @case("read")
    def tiff_with_white_as_zero(folder: Path) -> Any:
        return make.tiff(
            folder / "t.tif", make.voxels(20, 30, dtype=np.uint8), photometric="miniswhite"
        )

    @case("read")
    def big_endian_tiff(folder: Path) -> Any:
        return make.tiff(folder / "t.tif", make.voxels(20, 30, dtype=np.uint16), byteorder=">")

    @case("refused", "damaged")
    def truncated_tiff(folder: Path) -> Any:
        return make.cut(make.tiff(folder / "t.tif", make.voxels(64, 64, dtype=np.uint16)))

    @case("refused", "damaged")
    def pickled_array(folder: Path) -> Any:
        return make.array_file(folder / "a.npy", np.array([{"a": 1}, None]), allow_pickle=True)

    @case("refused", "5 axes")
    def array_of_five_axes(folder: Path) -> Any:
        return make.array_file(folder / "a.npy", make.voxels(2, 2, 3, 4, 5))

    @case("refused", "type")
    def array_of_texts(folder: Path) -> Any:
        return make.array_file(folder / "a.npy", np.array([["a", "b"], ["c", "d"]]))

    @case("refused", "no voxels")
    def array_without_voxels(folder: Path) -> Any:
        return make.array_file(folder / "a.npy", np.zeros((0, 5, 5)))

    @case("refused", "damaged")
    def truncated_array(folder: Path) -> Any:
        return make.cut(make.array_file(folder / "a.npy", make.voxels(30, 30)))

    @case("read")
    def big_endian_array(folder: Path) -> Any:
        return make.array_file(folder / "a.npy", make.voxels().astype(">i4"))

    return found
