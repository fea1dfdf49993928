"""A memory of earlier keys, as a ring."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unlabeled.nn.gathering import gather_rows


class Queue(nn.Module):
    """The latest keys of all processes; new ones take the places of the oldest.

    Until it has gone round once it holds random directions, drawn from torch's global generator.

    Parameters
    ----------
    size
        Keys that it holds.
    dim
        Length of a key.

    Attributes
    ----------
    rows
        ``queued dim``, single precision; a buffer, so checkpoints keep it.  `push` writes into it: a loss that looks
        at it after a push and before its backward pass needs a clone.
    place
        Where the next key goes.

    >>> queue = Queue(3, 1)
    >>> queue.push(torch.tensor([[1.0], [2.0]]))
    >>> queue.push(torch.tensor([[3.0], [4.0]]))
    >>> queue.rows.flatten().tolist(), int(queue.place)
    ([4.0, 2.0, 3.0], 1)
    """

    rows: Tensor
    place: Tensor

    def __init__(self, size: int, dim: int) -> None:
        super().__init__()
        if size < 1 or dim < 1:
            raise ValueError(f"a queue of {size} keys of length {dim}")
        self.register_buffer("rows", F.normalize(torch.randn(size, dim), dim=1))
        self.register_buffer("place", torch.zeros((), dtype=torch.long))

    def __len__(self) -> int:
        return len(self.rows)

    @torch.no_grad()
    def push(self, keys: Tensor) -> None:
        """Write the keys of all processes, in their order; of more than the queue holds, the last.

        Parameters
        ----------
        keys
            ``batch dim``, of any floating type; what the loss compares (unit length, where it wants that).
        """
        latest = gather_rows(keys.detach()).to(self.rows.dtype)
        skipped = max(0, len(latest) - len(self))
        turn = torch.arange(skipped, len(latest), device=self.rows.device)
        self.rows[(self.place + turn) % len(self)] = latest[skipped:]
        self.place.copy_((self.place + len(latest)) % len(self))
