"""Contrastive losses: tell each embedding's partner from the rest.

All work in single precision, also under autocast, as logits reach ``1 / temperature``.  `info_nce` and `nt_xent` are
softmax cross entropies whose gradient is known in closed form, so it is made together with the loss: no matrix of logits
outlives the call, and half of the passes over it are saved (`benchmarks/contrastive.py`).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

_CHUNK = 1024  # queued keys that are compared at a time: their logits stay in a processor's cache
_SHORTEST = 1e-12  # length below which a row counts as zero (torch's own bound)


def info_nce(
    query: Float[Tensor, "batch dim"],
    key: Float[Tensor, "batch dim"],
    queue: Float[Tensor, "queued dim"],
    temperature: float = 0.07,
) -> Float[Tensor, ""]:
    """Cross entropy of telling each query's own key from queued ones [nat].

    Rows are compared by their dot product, so they are to have unit length.  The gradient reaches `query` alone; with
    keys that tell nothing it costs ``log(1 + queued)``.

    Parameters
    ----------
    query
        The student's embeddings.
    key
        The teacher's embedding of each query's partner.
    queue
        Embeddings of others.
    temperature
        Divides the similarities; small ones make near keys count most.

    Notes
    -----
    Source: He et al., CVPR 2020, equation 1.

    >>> eye = torch.eye(2)
    >>> info_nce(eye[:1], eye[:1], eye[1:], temperature=1.0)      # log(1 + 1/e)
    tensor(0.3133)
    """
    with torch.autocast(query.device.type, enabled=False):
        rows = [_exact(each) for each in (query, key.detach(), queue.detach())]
        return _apply(_OwnKey, *rows, temperature)


def nt_xent(
    first: Float[Tensor, "batch dim"],
    second: Float[Tensor, "batch dim"],
    temperature: float = 0.5,
) -> Float[Tensor, ""]:
    """Cross entropy of telling each view's partner from all other views of the batch [nat], for both views alike.

    Rows are compared by their cosine, whatever their length.  Both views get a gradient; with embeddings that tell
    nothing it costs ``log(2 batch - 1)``.  With several processes, `nn.gathering.gather_rows` brings the whole batch
    together first.

    Parameters
    ----------
    first, second
        Embeddings of two views; equal rows belong together.
    temperature
        Divides the cosines.

    Notes
    -----
    Source: Chen et al., ICML 2020, equation 1 (NT-Xent).

    >>> nt_xent(torch.eye(2), torch.eye(2), temperature=1.0)      # log(e + 2) - 1
    tensor(0.5514)
    """
    if first.shape != second.shape:
        raise ValueError(f"views of shapes {tuple(first.shape)} and {tuple(second.shape)}")
    with torch.autocast(first.device.type, enabled=False):
        return _apply(_OtherView, _exact(first), _exact(second), temperature)


def noise_contrast(
    query: Float[Tensor, "batch dim"],
    key: Float[Tensor, "batch dim"],
    queue: Float[Tensor, "queued dim"],
    *,
    total: Tensor | float,
    images: Tensor | float,
    temperature: float = 0.07,
    eps: float = 1e-5,
) -> Float[Tensor, ""]:
    """Cost of calling each query's own key data and each queued one noise, every time anew [nat].

    With ``p = exp(similarity / temperature) / total`` and the noise's share ``n = queued / images`` a query costs
    ``-log p / (p + n + eps)`` for its own key and ``-log n / (p + n + eps)`` for every queued one; computed with
    logarithms throughout, so nothing overflows.  Rows as in `info_nce`; the gradient reaches `query` alone.

    Parameters
    ----------
    query, key, queue
        As in `info_nce`.
    total
        What makes exponentials probabilities, fixed at the first batch (`estimate_total`).
    images
        Images to learn from.
    temperature
        Divides the similarities.
    eps
        Keeps quotients finite.

    Notes
    -----
    Source: Wu et al., CVPR 2018, equations 4 to 8, as in the official code of CMC (Tian et al., ECCV 2020).

    >>> eye = torch.eye(2)
    >>> noise_contrast(eye[:1], eye[:1], eye[1:], total=1, images=1, temperature=1, eps=0)  # log (e+1)/e + log 2
    tensor(1.0064)
    """
    with torch.autocast(query.device.type, enabled=False):
        own, others = _similarities(query, key, queue, temperature)
        noise = torch.as_tensor(len(queue) / images, dtype=own.dtype, device=own.device)
        level = torch.as_tensor(total, dtype=own.dtype, device=own.device).log()
        level = level + (noise + eps).log()
        called_data = F.softplus(level - own)
        called_noise = F.softplus(others - level) + ((noise + eps) / noise).log()
        return (called_data + called_noise.sum(1)).mean()


@torch.no_grad()
def estimate_total(
    query: Float[Tensor, "batch dim"],
    key: Float[Tensor, "batch dim"],
    queue: Float[Tensor, "queued dim"],
    *,
    images: Tensor | float,
    temperature: float = 0.07,
) -> Float[Tensor, ""]:
    """Estimate the sum of exponentials over all images from one batch: their mean times `images`.

    >>> eye = torch.eye(2)
    >>> estimate_total(eye[:1], eye[:1], eye[1:], images=10, temperature=1)  # 10 (e + 1) / 2
    tensor(18.5914)
    """
    with torch.autocast(query.device.type, enabled=False):
        own, others = _similarities(query, key, queue, temperature)
        return torch.cat([own[:, None], others], dim=1).exp().mean() * images


def _similarities(
    query: Tensor, key: Tensor, queue: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """Give the logits of the own keys ``batch`` and of the queued ones ``batch queued``."""
    rows, own, others = (_exact(each) for each in (query, key.detach(), queue.detach()))
    return (rows * own).sum(1) / temperature, rows @ others.T / temperature


class _OwnKey(torch.autograd.Function):
    """`info_nce`, over the queue in chunks: a running maximum keeps every exponential at most 1."""

    @staticmethod
    def forward(
        ctx: FunctionCtx, query: Tensor, key: Tensor, queue: Tensor, temperature: float
    ) -> Tensor:
        scaled = query / temperature
        own = (scaled * key).sum(1, keepdim=True)
        highest, total, pull = own.clone(), torch.ones_like(own), key.clone()
        for first in range(0, len(queue), _CHUNK):
            part = queue[first : first + _CHUNK]
            logits = scaled @ part.T
            risen = torch.maximum(highest, logits.amax(1, keepdim=True))
            likely = logits.sub_(risen).exp_()
            shrunk = (highest - risen).exp_()
            total.mul_(shrunk).add_(likely.sum(1, keepdim=True))
            pull.mul_(shrunk).addmm_(likely, part)  # the mean key under the softmax, times `total`
            highest = risen
        gradient = pull.div_(total).sub_(key).div_(len(query) * temperature)
        ctx.save_for_backward(gradient)
        return (total.log() + highest - own).mean()

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, upstream: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return gradient * upstream, None, None, None


class _OtherView(torch.autograd.Function):
    """`nt_xent`; the second views stand below the first."""

    @staticmethod
    def forward(ctx: FunctionCtx, first: Tensor, second: Tensor, temperature: float) -> Tensor:
        half, count = len(first), 2 * len(first)
        views = torch.cat([first, second])
        lengths = torch.linalg.vector_norm(views, dim=1, keepdim=True).clamp_(min=_SHORTEST)
        views.div_(lengths)
        logits = (views / temperature) @ views.T
        log_likely = logits.fill_diagonal_(-torch.inf).log_softmax(1)
        partners = log_likely.diagonal(half).sum() + log_likely.diagonal(-half).sum()
        likely = log_likely.exp_()
        gradient = (likely @ views).addmm_(likely.T, views)  # each view is anchor and choice
        gradient[:half].sub_(views[half:], alpha=2)
        gradient[half:].sub_(views[:half], alpha=2)
        gradient.sub_(views * (gradient * views).sum(1, keepdim=True))  # the length does not count
        ctx.save_for_backward(gradient.div_(lengths.mul_(count * temperature)))
        return -partners / count

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, upstream: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors  # type: ignore[attr-defined]
        first, second = (gradient * upstream).chunk(2)
        return first, second, None


def _apply(function: type[torch.autograd.Function], *given: Tensor | float) -> Tensor:
    loss: Tensor = function.apply(*given)  # type: ignore[no-untyped-call]
    return loss


def _exact(rows: Tensor) -> Tensor:
    """Give rows in single precision, or double where they have it."""
    return rows.to(torch.promote_types(rows.dtype, torch.float32))


def margin_contrast(
    first: Float[Tensor, "batch dim"],
    second: Float[Tensor, "batch dim"],
    same: Float[Tensor, " batch"],
    margin: float = 1.0,
) -> Float[Tensor, " batch"]:
    """Draw equal pairs together and push unequal ones apart up to a margin, a term a pair.

    ``same d^2 + (1 - same) max(0, margin - d)^2``, with d the Euclidean distance; a pair beyond the margin has no
    gradient, and equal embeddings have a finite one.  Source: Hadsell et al., CVPR 2006, without its factor 1/2.

    >>> one = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    >>> other = torch.tensor([[0.6, 0.8], [0.6, 0.8]])
    >>> margin_contrast(one, other, torch.tensor([1.0, 0.0]))
    tensor([0.8000, 0.1351])
    """
    squared = (first.float() - second.float()).square().sum(1)
    short = (margin - (squared + _SHORTEST).sqrt()).clamp(min=0)
    same = same.float()
    return same * squared + (1 - same) * short.square()
