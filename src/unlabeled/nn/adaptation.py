"""Rules that fit a tensor of one shape into a network that needs another."""

from __future__ import annotations

from torch import Tensor

from unlabeled.nn.vit import resize_positions


def adapt(
    name: str, found: Tensor, needed: tuple[int, ...], *, entry: bool, inflate: bool
) -> tuple[Tensor, str] | None:
    """Fit a tensor, or give None when no rule does.

    Parameters
    ----------
    name
        Of the tensor; learned positions are known by it.
    found
        What the file holds.
    needed
        Shape that the network has.
    entry
        Whether it is the kernel of the layer that sees the image, whose channels may differ.
    inflate
        Whether a 2D kernel may become a 3D one.

    Returns
    -------
    tuple or None
        The fitted tensor and the rule in words.
    """
    value, rules = found, []
    if name.endswith("pos_embed"):
        return _positions(found, needed)
    if entry and value.ndim >= 4 and value.ndim <= len(needed) and value.shape[1] != needed[1]:
        rules.append(f"{value.shape[1]} image channels summed, divided evenly among {needed[1]}")
        value = spread_channels(value, needed[1])
    if inflate and value.ndim == 4 and len(needed) == 5 and tuple(value.shape) == needed[:4]:
        value = inflate_kernel(value, needed[4])
        rules.append("2D kernel repeated along the last axis, divided by its length")
    return (value, "; ".join(rules)) if rules and tuple(value.shape) == needed else None


def spread_channels(kernel: Tensor, channels: int) -> Tensor:
    """Give an entry kernel ``out in *space`` another number of image channels.

    The kernel is summed over the file's channels and divided evenly among the network's, so an image whose channels
    are all equal gets the response that it had: a grey image from ImageNet weights, for instance.

    >>> import torch
    >>> spread_channels(torch.tensor([1.0, 2.0, 3.0]).view(1, 3, 1, 1), 2).flatten()
    tensor([3., 3.])
    """
    total = kernel.sum(dim=1, keepdim=True) / channels
    return total.expand(-1, channels, *kernel.shape[2:]).contiguous()


def inflate_kernel(kernel: Tensor, length: int) -> Tensor:
    """Repeat a 2D kernel ``out in *space`` along a new last axis and divide by its length.

    An image that is constant along that axis gets the response of the 2D network (Carreira & Zisserman, CVPR 2017).

    >>> import torch
    >>> inflate_kernel(torch.ones(1, 1, 1, 1), 2).flatten()
    tensor([0.5000, 0.5000])
    """
    return (kernel[..., None] / length).expand(*kernel.shape, length).contiguous()


def _positions(found: Tensor, needed: tuple[int, ...]) -> tuple[Tensor, str] | None:
    """Interpolate learned positions between square grids of tokens (the first position is the class token's)."""
    if found.ndim != 3 or len(needed) != 3 or found.shape[2] != needed[2]:
        return None
    old, new = (round((count - 1) ** 0.5) for count in (found.shape[1], needed[1]))
    if old * old != found.shape[1] - 1 or new * new != needed[1] - 1:
        return None
    resized = resize_positions(found, (old, old), (new, new))
    return resized.contiguous(), f"positions interpolated from {old}x{old} to {new}x{new} tokens"
