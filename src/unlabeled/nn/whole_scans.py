"""What a network says of a whole scan, which it sees part by part."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from unlabeled.data.record import Record
from unlabeled.data.sampling import tiles


def over_tiles(
    compute: Callable[[Tensor], Tensor],
    record: Record,
    dims: int,
    *,
    edge: int,
    margin: int,
    device: torch.device,
) -> Tensor:
    """Compute maps of a scan part by part; a network of two axes takes a volume slice by slice.

    Parameters
    ----------
    compute
        Gives ``1 number *space`` for ``1 channel *space``.
    record
        The scan.
    dims
        Axes of space that `compute` takes.
    edge, margin
        Of a part, and what is read around it [voxel].
    device
        Where it is computed.

    Returns
    -------
    ``number *space`` of the whole scan, on the CPU.
    """
    made = torch.empty(0)
    flat = record.dims - dims
    edges, margins = (
        (number,) * dims + (least,) * flat for number, least in ((edge, 1), (margin, 0))
    )
    for tile in tiles(record.space, edges, margins):
        image = record.patch(tile.start, tile.size)
        given = compute(image.view(1, record.channels, *tile.size[:dims]).to(device)).cpu()
        if not len(made):
            made = given.new_empty(given.shape[1], *record.space)
        whole = (slice(None),)
        made[whole + tile.place] = given.view(len(made), *tile.size)[whole + tile.inner]
    return made
