"""Contrast that knows where slices and regions lie: partitions of a volume, places of a feature map.

Both losses are sums of one term over anchors a, positives b and a set N of negatives, with s the cosine over the temperature:

    l(a, b; N) = -log( e^s(a,b) / (e^s(a,b) + sum over n in N of e^s(a,n)) )

Other positives of an anchor are in no denominator.  Source: Chaitanya et al., NeurIPS 2020.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

#: Edges of the grid of places: a place is a region at multiples of a quarter of the map.
GRID = 5
#: Places that are compared, as (row, column) of the grid, and the neighbours of each that serve as its negatives, in
#: the order of the published code, which uses 5 of them within an image and the first 4 across volumes.
PLACES: tuple[tuple[tuple[int, int], tuple[tuple[int, int], ...]], ...] = (
    ((0, 0), ((0, 2), (1, 1), (1, 2), (2, 0), (2, 1))),
    ((0, 2), ((0, 0), (0, 4), (1, 1), (1, 3), (2, 2))),
    ((0, 4), ((0, 2), (1, 2), (1, 3), (2, 3), (2, 4))),
    ((2, 0), ((0, 0), (1, 1), (2, 2), (4, 0), (3, 1))),
    ((2, 2), ((1, 1), (1, 3), (3, 1), (3, 3), (2, 0))),
    ((2, 4), ((0, 4), (2, 2), (4, 4), (1, 3), (3, 3))),
    ((4, 0), ((2, 0), (2, 1), (4, 2), (3, 1), (3, 2))),
    ((4, 2), ((2, 2), (4, 0), (4, 4), (3, 1), (3, 3))),
    ((4, 4), ((2, 3), (2, 4), (4, 2), (3, 3), (3, 2))),
    ((1, 1), ((0, 0), (0, 2), (2, 0), (2, 2), (1, 3))),
    ((1, 3), ((0, 2), (0, 4), (1, 1), (2, 2), (2, 4))),
    ((3, 1), ((2, 0), (2, 2), (4, 0), (4, 2), (3, 3))),
    ((3, 3), ((2, 2), (2, 4), (4, 2), (4, 4), (3, 1))),
)
_WITHIN, _ACROSS = 5, 4  # negatives of a place


def global_contrast(
    embeddings: Float[Tensor, "volumes views partitions dim"],
    *,
    across: bool,
    temperature: float = 0.1,
) -> Float[Tensor, ""]:
    """Draw together views of a slice, and slices of one partition; push other partitions away [nat].

    Two rows of the same partition are never negatives, of whatever volume.  The sum of all terms is divided by the
    number of rows.

    Parameters
    ----------
    embeddings
        Rows of any length; partitions in the order of the body.
    across
        Whether the next volume's slice of the same partition, in the same view, is a positive too (G^D, two views);
        without it, the views of a slice are each other's only positives (G^D-).
    temperature
        Divides the cosines.

    >>> rows = torch.eye(2)[None, None].repeat(1, 2, 1, 1)         # one volume, two views, two partitions
    >>> global_contrast(rows, across=False, temperature=1.0)       # log(1 + 2 / e)
    tensor(0.5514)
    """
    volumes, views, partitions, _ = embeddings.shape
    pairs, negatives = global_pairs(volumes, views, partitions, across=across)
    pairs, negatives = pairs.to(embeddings.device), negatives.to(embeddings.device)
    with torch.autocast(embeddings.device.type, enabled=False):
        rows = F.normalize(embeddings.flatten(0, 2).float(), dim=1)
        cosines = rows @ rows.T / temperature
        rivals = cosines.masked_fill(~negatives, -torch.inf).logsumexp(1, keepdim=True)
        return (pairs * F.softplus(rivals - cosines)).sum() / len(rows)


def global_pairs(
    volumes: int, views: int, partitions: int, *, across: bool
) -> tuple[Float[Tensor, "rows rows"], Bool[Tensor, "rows rows"]]:
    """Say which rows `global_contrast` compares: how often each is the positive of another, and which are negatives.

    Rows count volumes first, then views, then partitions.  Across volumes, each volume has the next for a partner (the
    last one the first); a pair of views then counts twice, once for each partner of its volume.  A volume alone has
    no partner.

    >>> pairs, negatives = global_pairs(1, 2, 2, across=False)
    >>> pairs.int().tolist()
    [[0, 0, 1, 0], [0, 0, 0, 1], [1, 0, 0, 0], [0, 1, 0, 0]]
    """
    shape = (volumes, views, partitions)
    volume, view, partition = (
        axis.flatten() for axis in torch.meshgrid(*map(torch.arange, shape), indexing="ij")
    )
    same = partition[:, None] == partition
    own = (volume[:, None] == volume) & same & (view[:, None] != view)
    pairs = own.float()
    if across and volumes > 1:
        aligned = same & (view[:, None] == view)
        follows = ((volume[:, None] + 1) % volumes == volume) & aligned
        pairs = 2 * pairs + follows.float() + follows.T.float()
    return pairs, ~same


def local_contrast(
    regions: Float[Tensor, "volumes versions partitions places dim"],
    *,
    across: bool,
    places: int = len(PLACES),
    temperature: float = 0.1,
) -> Float[Tensor, ""]:
    """Draw together one place of two versions of an image; push its neighbours in both away [nat].

    Parameters
    ----------
    regions
        Embeddings of the ``GRID * GRID`` places of a map, row by row; two versions that differ in intensity alone.
    across
        Whether the same place of the other volumes' slices of the same partition is a positive too (L^D): only
        places of the first versions are anchors then.  Without it (L^R), both versions are.
    places
        How many of `PLACES` are compared.
    temperature
        Divides the cosines.

    Notes
    -----
    The sum of all terms is divided by the places and by all rows, versions included.

    >>> rows = torch.eye(25)[None, None, None].repeat(1, 2, 1, 1, 1)
    >>> local_contrast(rows, across=False, temperature=1.0)        # log(1 + 10 / e)
    tensor(1.5430)
    """
    with torch.autocast(regions.device.type, enabled=False):
        first, second = F.normalize(regions.float(), dim=-1).unbind(1)
        if not across:
            terms = _region_terms(first, second, _WITHIN, places, temperature)
            turned = _region_terms(second, first, _WITHIN, places, temperature)
            return torch.stack([terms, turned]).mean()
        positives = [second, *(first.roll(-by, 0) for by in range(1, len(first)))]
        terms = torch.stack([_region_terms(first, b, _ACROSS, places, temperature) for b in positives])  # fmt: skip
        return terms.mean(1).sum(0).mean() / 2


def _region_terms(
    anchors: Float[Tensor, "*maps places dim"],
    positives: Float[Tensor, "*maps places dim"],
    negatives: int,
    places: int,
    temperature: float,
) -> Float[Tensor, "*maps compared"]:
    """One term a map and place, with negatives from the anchor's map and the positive's."""
    chosen = [GRID * row + column for (row, column), _ in PLACES[:places]]
    near = [[GRID * r + c for r, c in beside[:negatives]] for _, beside in PLACES[:places]]
    own, partner = anchors[..., chosen, :], positives[..., chosen, :]
    others = torch.cat([anchors[..., near, :], positives[..., near, :]], dim=-2)
    alike = (own * partner).sum(-1) / temperature
    rivals = ((others @ own[..., None]).squeeze(-1) / temperature).logsumexp(-1)
    return F.softplus(rivals - alike)
