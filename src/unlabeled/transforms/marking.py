"""Pictures with numbered points, for people."""

from __future__ import annotations

import colorsys
from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageDraw
from torch import Tensor

#: Part of the volume's depth within which a point counts as lying on the slice shown.
NEAR = 0.125


def mark_points(
    image: Tensor, points: Mapping[str, Tensor], *, edge: int = 160
) -> Float[Tensor, "3 rows columns"]:
    """Draw named points on an image; the same place in `points` has the same colour in every picture.

    Parameters
    ----------
    image
        ``channel *space`` in [0, 1]; of a volume the middle slice of the last axis is shown, upright (the second axis up).
    points
        Positions ``(axes,)`` by name [voxel].  Of a volume, points off the slice are drawn hollow.
    edge
        Longer side of the picture [pixel].

    Returns
    -------
    Tensor
        In [0, 1].
    """
    volume = image.ndim == 4
    shown = image[..., image.shape[-1] // 2] if volume else image
    if volume:
        shown = shown.transpose(1, 2).flip(1)
    shown = shown[:3] if len(shown) >= 3 else shown[:1].expand(3, -1, -1)
    rows, columns = shown.shape[1:]
    zoom = edge / max(rows, columns)
    levels = (shown.detach().float().cpu().clamp(0, 1) * 255).round().byte().permute(1, 2, 0)
    size = (max(1, round(columns * zoom)), max(1, round(rows * zoom)))
    picture = Image.fromarray(levels.numpy().copy()).resize(size, Image.Resampling.BILINEAR)
    draw = ImageDraw.Draw(picture)
    radius = max(2, edge // 64)
    for place, (name, point) in enumerate(points.items()):
        first, second, *depth = point.detach().float().cpu().tolist()
        across, down = (first, rows - 1 - second) if volume else (second, first)
        x, y = (across + 0.5) * zoom, (down + 0.5) * zoom
        shade = colorsys.hsv_to_rgb(place / len(points), 0.8, 1.0)
        colour = tuple(round(255 * part) for part in shade)
        far = depth and abs(depth[0] - image.shape[-1] // 2) > NEAR * image.shape[-1]
        box = (x - radius, y - radius, x + radius, y + radius)
        draw.ellipse(box, fill=None if far else colour, outline=colour)
        _, _, right, bottom = draw.textbbox((0, 0), name)
        beside = x + radius + 1 if x + radius + right < size[0] else x - radius - 1 - right
        over = min(max(0, y - bottom), size[1] - bottom)
        draw.text((beside, over), name, fill=colour)
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 255


def mark_images(images: Tensor, points: Tensor, *, edge: int = 160) -> Tensor:
    """Draw numbered points on a batch of images, for a preview.

    Parameters
    ----------
    images
        ``batch channel *space`` in [0, 1].
    points
        ``batch points axes`` [voxel].

    Returns
    -------
    Tensor
        ``batch 3 *space`` with `edge` pixels along the longer side; of volumes, one slice along the last axis.
    """
    pictures = torch.stack(
        [
            mark_points(image, {str(n): at for n, at in enumerate(found, start=1)}, edge=edge)
            for image, found in zip(images, points, strict=True)
        ]
    )
    return pictures if images.ndim == 4 else pictures.flip(2).transpose(2, 3)[..., None]
