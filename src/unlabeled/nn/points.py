"""Points of maps: read by interpolation, chosen where logits are unsure, predicted anew by a small head.

After PointRend (Kirillov et al., CVPR 2020), in any number of axes.  A point has one number in [0, 1] for each axis of
space, the LAST axis first; 0 and 1 are the outer faces of the outermost voxels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

Maps = Float[Tensor, "batch channel *space"]
Points = Float[Tensor, "batch point axes"]


def read_points(maps: Maps, points: Points, *, nearest: bool = False) -> Tensor:
    """Read maps at points, ``batch channel point``: interpolated linearly, or the nearest voxel; zero beyond the maps.

    >>> line = torch.tensor([[[[1.0, 2.0, 4.0]]]])
    >>> read_points(line, torch.tensor([[[0.5, 0.5], [1 / 3, 0.5]]]))
    tensor([[[2.0000, 1.5000]]])
    """
    axes = points.shape[-1]
    lattice = (2 * points - 1).view(len(points), -1, *(1,) * (axes - 1), axes)
    mode = "nearest" if nearest else "bilinear"
    return F.grid_sample(maps, lattice, mode=mode, align_corners=False).flatten(2)


def cell_centres(index: Int[Tensor, "batch point"], space: Sequence[int]) -> Points:
    """Give the points at the centres of voxels, which are numbered as in a flattened map."""
    numbers, along = index, []
    for edge in reversed(space):
        along.append((numbers % edge + 0.5) / edge)
        numbers = numbers // edge
    return torch.stack(along, -1)


def uncertainty(logits: Tensor) -> Tensor:
    """Say how close the two likeliest classes are, ``batch *rest`` of ``batch class *rest``: 0 where they are even.

    >>> uncertainty(torch.tensor([[[3.0], [1.0], [2.5]]]))
    tensor([[-0.5000]])
    """
    first, second = logits.topk(2, dim=1).values.unbind(1)
    return second - first


def most_uncertain(logits: Maps, count: int) -> Int[Tensor, "batch point"]:
    """Number the voxels, as in a flattened map, of which the logits are least sure."""
    unsure = uncertainty(logits).flatten(1)
    return unsure.topk(min(count, unsure.shape[1]), dim=1).indices


def unsure_at(logits: Maps, points: Points, *, ranked: Literal["after", "before"]) -> Tensor:
    """Say how unsure the logits are at points: classes are ranked after reading them there, or before, voxel by voxel.

    Before, a point between two sure voxels of unlike classes looks sure (the published order).
    """
    if ranked == "after":
        return uncertainty(read_points(logits, points))
    return read_points(uncertainty(logits)[:, None], points)[:, 0]


def choose_points(
    logits: Maps,
    candidates: Points,
    others: Points,
    *,
    ranked: Literal["after", "before"] = "after",
    count: int,
) -> Points:
    """Take the `count` candidates that the logits are least sure of, then all others."""
    unsure = unsure_at(logits, candidates, ranked=ranked)
    kept = unsure.topk(count, dim=1).indices[..., None].expand(-1, -1, candidates.shape[-1])
    return torch.cat([candidates.gather(1, kept), others], 1)


def draw_points(
    logits: Maps,
    count: int,
    *,
    oversample: int = 3,
    share: float = 0.75,
    ranked: Literal["after", "before"] = "after",
) -> Points:
    """Draw points, a `share` of them where the logits are unsure and the rest evenly.

    Parameters
    ----------
    logits
        ``batch class *space``.
    count
        Points of each image.
    oversample
        Candidates for each point; the least sure are taken.
    share
        Of points that are taken from candidates.
    ranked
        As in `unsure_at`.

    Notes
    -----
    Randomness comes from torch's global generator.  Source: Kirillov et al., CVPR 2020, section 3.2.
    """
    batch, axes = len(logits), logits.ndim - 2
    kept = int(share * count)
    candidates = torch.rand(batch, oversample * count, axes, device=logits.device)
    others = torch.rand(batch, count - kept, axes, device=logits.device)
    return choose_points(logits.detach().float(), candidates, others, ranked=ranked, count=kept)


class PointHead(nn.Module):
    """Say the class of a point from its coarse logits and the fine features there; shared by all points.

    Parameters
    ----------
    classes
        How many.
    features
        Numbers that the fine maps give of a point, together.
    hidden
        Widths in between (published: 64, 32).
    """

    def __init__(self, classes: int, features: int, hidden: Sequence[int] = (64, 32)) -> None:
        super().__init__()
        widths = (classes + features, *hidden)
        layers: list[nn.Module] = []
        for entering, leaving in zip(widths, hidden, strict=False):
            layers += [nn.Conv1d(entering, leaving, 1), nn.ReLU()]
        self.mlp = nn.Sequential(*layers, nn.Conv1d(widths[-1], classes, 1))

    def forward(self, logits: Maps, fine: Sequence[Maps], points: Points) -> Tensor:
        """Compute logits of points, ``batch class point``."""
        seen = [read_points(each, points) for each in (logits, *fine)]
        said: Tensor = self.mlp(torch.cat(seen, 1))
        return said


def enlarge(maps: Maps, space: Sequence[int], *, corners: bool = False) -> Maps:
    """Interpolate maps linearly to another size: face to face, or with the centres of their corner voxels in place."""
    mode = "bilinear" if maps.ndim == 4 else "trilinear"
    return F.interpolate(maps, tuple(space), mode=mode, align_corners=corners)


def render(
    coarse: Maps,
    fine: Sequence[Maps],
    head: PointHead,
    space: Sequence[int],
    *,
    points: int,
    corners: bool = False,
) -> Maps:
    """Enlarge coarse logits by two, say the most uncertain voxels anew, and again until they have an image's size.

    Parameters
    ----------
    coarse
        Logits.
    fine
        Further maps that the head sees.
    space
        Of the image [voxel].
    points
        Voxels that each round says anew; all others are exactly the enlarged logits.
    corners
        As in `enlarge`.
    """
    logits = coarse
    ratios = (full / edge for full, edge in zip(space, coarse.shape[2:], strict=True))
    for halvings in reversed(range(round(math.log2(max(ratios))))):
        logits = enlarge(logits, [-(-edge // 2**halvings) for edge in space], corners=corners)
        index = most_uncertain(logits, points)
        said = head(logits, fine, cell_centres(index, logits.shape[2:]).to(logits.dtype))
        where = index[:, None].expand(-1, logits.shape[1], -1)
        logits = logits.flatten(2).scatter(2, where, said.to(logits.dtype)).view_as(logits)
    return logits
