"""PNG panels of the pretext task: one row a held-out sample, one column a picture, captions above."""

from __future__ import annotations

import io
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor

CELL = 160  # [pixel]
CAPTION = 18  # [pixel]
GAP = 4  # [pixel]


def panel(pictures: Mapping[str, Tensor], rows: int = 3) -> bytes:
    """Draw captions and pictures, ``batch channel *space`` in [0, 1], as one PNG; volumes show their middle slice."""
    names = list(pictures)
    count = min(rows, min(len(batch) for batch in pictures.values()))
    grid = [[_scaled(pictures[name][row]) for name in names] for row in range(count)]
    widths = [max(row[column].width for row in grid) for column in range(len(names))]
    widths = [max(width, _caption_width(name)) for width, name in zip(widths, names, strict=True)]
    heights = [max(picture.height for picture in row) for row in grid]
    size = (sum(widths) + GAP * (len(names) - 1), CAPTION + sum(heights) + GAP * (count - 1))
    sheet = Image.new("RGB", size, "black")
    draw = ImageDraw.Draw(sheet)
    left = 0
    for column, name in enumerate(names):
        draw.text((left + 3, 3), name, fill="white")
        top = CAPTION
        for row in range(count):
            sheet.paste(grid[row][column], (left, top))
            top += heights[row] + GAP
        left += widths[column] + GAP
    file = io.BytesIO()
    sheet.save(file, "PNG")
    return file.getvalue()


def _scaled(image: Tensor) -> Image.Image:
    """Enlarge or shrink a picture until its longer side fills a cell."""
    picture = Image.fromarray(_flat(image))
    scale = CELL / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.resize(size, Image.Resampling.NEAREST)


def _caption_width(text: str) -> int:
    return int(ImageDraw.Draw(Image.new("L", (1, 1))).textlength(text)) + 6


def _flat(image: Tensor) -> NDArray[np.uint8]:
    """Cut the middle slice of ``channel *space`` and make it ``rows columns 3`` bytes, upright."""
    array = image.detach().float().cpu().numpy()
    if array.ndim == 4:
        middle = array[..., array.shape[-1] // 2]
        array = middle.transpose(0, 2, 1)[:, ::-1]  # RAS: left to right, anterior up
    array = array[:3] if array.shape[0] >= 3 else np.repeat(array[:1], 3, axis=0)
    levels = np.nan_to_num(array).clip(0, 1) * 255
    return np.ascontiguousarray(levels.round().astype(np.uint8).transpose(1, 2, 0))
