"""Pictures for people: where a network looks, and which region is meant."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor

TILE = 146  # [pixel]
LINE = 14  # [pixel], of a caption


def heat(picture: Tensor, weights: Tensor) -> Tensor:
    """Lay weights over a grey picture, from dark (the lowest) over red to yellow (the highest).

    Parameters
    ----------
    picture
        ``*any rows columns`` in [0, 1].
    weights
        ``*any rows columns``, on a grid of their own; each map is stretched from its lowest to its highest.

    Returns
    -------
    Tensor
        ``*any 3 rows columns`` in [0, 1].
    """
    maps = weights.float()
    low, high = maps.amin((-2, -1), keepdim=True), maps.amax((-2, -1), keepdim=True)
    spread = high - low
    maps = torch.where(spread > 1e-6 * high.abs(), (maps - low) / spread.clamp(min=1e-12), 0.0)
    size = picture.shape[-2:]
    flat = maps.reshape(-1, 1, *maps.shape[-2:])
    level = F.interpolate(flat, size=size, mode="bilinear", align_corners=False)
    level = level.view(*maps.shape[:-2], *size)
    colour = torch.stack([level, (2 * level - 1).clamp(min=0), torch.zeros_like(level)], -3)
    share = 0.6 * level.unsqueeze(-3)
    return (1 - share) * picture.clamp(0, 1).unsqueeze(-3) + share * colour


def in_range(image: Tensor, like: Tensor | None = None) -> Tensor:
    """Scale intensities so that each image's own range, or that of another, becomes [0, 1].

    Parameters
    ----------
    image
        ``batch channel *space``.
    like
        As many images, whose lowest and highest intensities become 0 and 1: what lies beyond is cut.

    Returns
    -------
    Tensor
        Like `image`, single precision.

    >>> in_range(torch.tensor([[2.0, 3.0], [5.0, 5.0]])).tolist()
    [[0.0, 1.0], [0.0, 0.0]]
    """
    ends = (image if like is None else like).float().flatten(1).aminmax(dim=1)
    low, high = (end.view(-1, *(1,) * (image.ndim - 1)) for end in ends)
    return ((image.float() - low) / (high - low).clamp(min=1e-6)).clamp(0, 1)


def upright(slices: Tensor) -> Tensor:
    """Turn slices ``*any rows columns`` whose second axis goes up (to the front, in RAS) so that pictures show it up.

    >>> upright(torch.tensor([[1, 2], [3, 4]])).tolist()
    [[2, 4], [1, 3]]
    """
    return slices.mT.flip(-2)


def tinted(image: Tensor, region: Tensor) -> Tensor:
    """Tint a region red on an image's first channel.

    Parameters
    ----------
    image
        ``batch channel rows columns`` in [0, 1].
    region
        ``batch rows columns``, 0 and 1.

    Returns
    -------
    Tensor
        ``batch 3 rows columns`` in [0, 1].
    """
    grey = image[:, :1].clamp(0, 1).expand(-1, 3, -1, -1)
    red = torch.tensor([1.0, 0.2, 0.1], device=image.device).view(1, 3, 1, 1)
    share = 0.45 * region[:, None]
    return (1 - share) * grey + share * red


def captioned(picture: Tensor, caption: str) -> Tensor:
    """Enlarge a picture to a tile and write a caption above it.

    Parameters
    ----------
    picture
        ``3 rows columns`` in [0, 1].
    caption
        A word or two.

    Returns
    -------
    Tensor
        ``3 160 146`` in [0, 1], as previews show it.
    """
    levels = (picture.float().clamp(0, 1) * 255).round().byte().cpu().numpy()
    tile = Image.fromarray(np.ascontiguousarray(levels.transpose(1, 2, 0)))
    scale = TILE / max(tile.size)
    size = (max(1, round(tile.width * scale)), max(1, round(tile.height * scale)))
    sheet = Image.new("RGB", (TILE, TILE + LINE))
    sheet.paste(tile.resize(size), (0, LINE))
    ImageDraw.Draw(sheet).text((2, 1), caption, fill="white")
    return torch.from_numpy(np.array(sheet)).permute(2, 0, 1).float() / 255


def written(text: str, caption: str) -> Tensor:
    """Write a text into a tile as `captioned` makes them, as many lines as fit.

    Parameters
    ----------
    text
        Words.
    caption
        A word or two, above it.

    Returns
    -------
    Tensor
        ``3 160 146`` in [0, 1].
    """
    sheet = Image.new("RGB", (TILE, TILE + LINE))
    pen = ImageDraw.Draw(sheet)
    pen.text((2, 1), caption, fill="white")
    room = (TILE - 4) // 6  # letters of a line
    lines = textwrap.wrap(text, room)[: (TILE - 4) // 12]
    for number, line in enumerate(lines):
        pen.text((2, LINE + 2 + 12 * number), line, fill=(180, 200, 255))
    return torch.from_numpy(np.array(sheet)).permute(2, 0, 1).float() / 255


def decided(picture: Tensor, maps: Tensor, captions: Sequence[str], most: int) -> list[Tensor]:
    """Draw a picture, and over it the maps with the highest weights, in their order; blank tiles where there are fewer.

    Parameters
    ----------
    picture
        ``rows columns`` in [0, 1].
    maps
        ``map *grid``.
    captions
        One a map.
    most
        So many maps.
    """
    grey, maps = picture.float().cpu(), maps.float().cpu()
    peaks = maps.flatten(1).amax(1) if len(maps) else torch.zeros(0)
    chosen = sorted(peaks.argsort(descending=True)[:most].tolist())
    overlays = [captioned(heat(grey, maps[place]), captions[place]) for place in chosen]
    tiles = [captioned(grey.expand(3, -1, -1), ""), *overlays]
    return tiles + [torch.zeros_like(tiles[0])] * (most + 1 - len(tiles))


def side_by_side(pictures: Sequence[Tensor], columns: int = 6) -> Tensor:
    """Set pictures ``3 rows columns`` of one size side by side, row after row."""
    across = min(columns, len(pictures))
    empty = [torch.zeros_like(pictures[0])] * (-len(pictures) % across)
    padded = [*pictures, *empty]
    rows = [torch.cat(padded[i : i + across], 2) for i in range(0, len(padded), across)]
    return torch.cat(rows, 1)


def filled(shares: Tensor, space: Sequence[int]) -> Tensor:
    """Draw each share as a bar that is filled from the left so far, ``batch 1 *space``.

    Parameters
    ----------
    shares
        ``batch``, each in [0, 1].
    space
        Rows and columns of the pictures.

    >>> filled(torch.tensor([0.0, 0.5]), (1, 5)).flatten(1).tolist()
    [[1.0, 0.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 0.0, 0.0]]
    """
    ramp = torch.linspace(0, 1, space[1], device=shares.device).expand(1, 1, *space)
    return (ramp <= shares.float().view(-1, 1, 1, 1)).float()
