"""Pictures of a scan with what was found of each of its slices beside it, for people."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageDraw
from torch import Tensor

EDGE = 360  # height of the picture without its scale, and width of the chart [pixel]
MARGIN = 34  # below the chart, for the scale [pixel]
DOT, LINE, GREY = (255, 140, 30), (40, 190, 190), (110, 110, 110)


def draw_profile(
    view: Tensor,
    heights: Sequence[float],
    values: Sequence[float],
    *,
    span: tuple[float, float],
    caption: str,
    aspect: float = 1.0,
    line: Sequence[float] = (),
) -> Float[Tensor, "3 rows columns"]:
    """Draw a scan upright and, at the height of each of its slices, a value as a dot to the right.

    Parameters
    ----------
    view
        ``rows columns`` in [0, 1], the head up.
    heights
        Where each slice lies: 0 at the lower border of the view, 1 at the upper one.
    values
        One a slice; beyond the span, the dot lies on its border.
    span
        Ends of the scale.
    caption
        What the scale measures.
    aspect
        Height over width of a pixel of the view.
    line
        Values of a line through the slices; empty for none.

    Returns
    -------
    Tensor
        In [0, 1].
    """
    rows, columns = view.shape
    across = round(EDGE * columns / (rows * aspect))
    width = min(max(across, EDGE // 4), 2 * EDGE)
    levels = (view.detach().float().cpu().clamp(0, 1) * 255).round().byte().numpy()
    shown = Image.fromarray(levels).resize((width, EDGE), Image.Resampling.BILINEAR)
    sheet = Image.new("RGB", (width + EDGE, EDGE + MARGIN), "black")
    sheet.paste(shown.convert("RGB"), (0, 0))
    draw = ImageDraw.Draw(sheet)
    low, high = span
    reach = max(high - low, 1e-6)

    def place(height: float, value: float) -> tuple[float, float]:
        share = min(max((value - low) / reach, 0.0), 1.0)
        return width + 8 + share * (EDGE - 17), (1 - height) * (EDGE - 1)

    for tick in ticks(low, high):
        x, _ = place(0, tick)
        draw.line((x, 0, x, EDGE), fill=(45, 45, 45))
        text = f"{tick:g}"
        draw.text((x - draw.textlength(text) / 2, EDGE + 2), text, fill=GREY)
    draw.line((width, EDGE, width + EDGE, EDGE), fill=GREY)
    draw.text((width + 8, EDGE + 17), caption, fill="white")
    if len(line) > 1:
        draw.line([place(*each) for each in zip(heights, line, strict=True)], fill=LINE, width=2)
    for height, value in zip(heights, values, strict=True):
        x, y = place(height, value)
        if len(values) == 1:
            draw.line((x, 0, x, EDGE), fill=DOT)
        draw.ellipse((x - 3, y - 3, x + 3, y + 3), fill=DOT)
    return torch.from_numpy(np.array(sheet)).permute(2, 0, 1).float() / 255


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Choose round numbers between two ends, `most` or fewer steps apart: 1, 2 or 5 times a power of ten.

    >>> ticks(-12.0, 31.0)
    [-10.0, 0.0, 10.0, 20.0, 30.0]
    """
    reach = high - low
    if not (math.isfinite(reach) and reach > 0):
        return [low]
    power = 10.0 ** math.floor(math.log10(reach / most))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power * most >= reach)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(number * step, 9) for number in range(first, last + 1)]
