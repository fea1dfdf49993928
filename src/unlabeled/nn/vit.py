"""Vision transformer (Dosovitskiy et al., ICLR 2021) in 2D and 3D, with the tensor names of timm's checkpoints."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unlabeled.nn.encoders import Encoder, check_image


@dataclass(frozen=True)
class Shape:
    """Width, heads, edge of a patch [voxel] and edge of the grid of learned positions.

    Attributes
    ----------
    width
        Channels of a token.
    heads
        Attention heads of each of the 12 blocks.
    patch
        Edge of the cube or square that one token covers [voxel].
    grid
        Tokens along each axis for which positions are learned; other grids are interpolated.
    """

    width: int
    heads: int
    patch: int
    grid: int


def shape(name: str, dims: int) -> Shape:
    """Give one size: 2D as timm's ``vit_*_patch16_224``; 3D positions for 96^3 (``vit``) and 48^3 voxels (smaller).

    >>> shape("vit", 2)
    Shape(width=768, heads=12, patch=16, grid=14)
    """
    width, heads = {"vit-tiny": (192, 3), "vit-s": (384, 6), "vit": (768, 12)}[name]
    if dims == 2:
        return Shape(width, heads, 16, 14)
    return Shape(width, heads, 16 if name == "vit" else 8, 6)


class PatchEmbedding(nn.Module):
    """One token a patch, by a convolution whose stride is its edge."""

    def __init__(self, dims: int, in_channels: int, width: int, patch: int) -> None:
        super().__init__()
        convolution = nn.Conv2d if dims == 2 else nn.Conv3d
        self.proj = convolution(in_channels, width, patch, patch)
        nn.init.xavier_uniform_(self.proj.weight.view(width, -1))
        if self.proj.bias is not None:
            nn.init.zeros_(self.proj.bias)

    def forward(self, image: Tensor) -> Tensor:
        """Compute ``batch width *grid``."""
        out: Tensor = self.proj(image)
        return out


class Attention(nn.Module):
    """Multi-head self-attention over ``batch token width``."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Mix the tokens."""
        batch, count, width = tokens.shape
        stacked = self.qkv(tokens).view(batch, count, 3, self.heads, width // self.heads)
        query, key, value = stacked.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, key, value)
        out: Tensor = self.proj(mixed.transpose(1, 2).reshape(batch, count, width))
        return out


class Mlp(nn.Module):
    """Two linear layers with GELU between, four times wider inside; dropout after each."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.p_dropout = 0.0
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Compute each token by itself."""
        wide = F.dropout(F.gelu(self.fc1(tokens)), self.p_dropout, self.training)
        return F.dropout(self.fc2(wide), self.p_dropout, self.training)


class Block(nn.Module):
    """Attention and the two linear layers, each after its normalisation and added to its input."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = Mlp(width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Compute ``batch token width``."""
        tokens = tokens + self.attn(self.norm1(tokens))
        out: Tensor = tokens + self.mlp(self.norm2(tokens))
        return out


class VisionTransformer(Encoder):
    """Transformer whose tokens after blocks 3, 6, 9 and 12 are laid out as maps (UNETR's choice of depths).

    All four maps have the same stride, the patch; the last one is normalised.  Edges that are no multiple of the
    patch are padded by their last voxel.  Learned positions are interpolated when the grid of tokens is another.

    Parameters
    ----------
    name
        ``vit-tiny``, ``vit-s`` or ``vit`` (B/16).
    dims
        Axes of space, 2 or 3.
    in_channels
        Channels of the image.
    """

    entry: ClassVar[str] = "patch_embed.proj"
    depths: ClassVar[tuple[int, ...]] = (3, 6, 9, 12)

    def __init__(self, name: str, *, dims: int, in_channels: int = 1) -> None:
        super().__init__()
        chosen = shape(name, dims)
        self.name, self.dims, self.in_channels = name, dims, in_channels
        self.channels = (chosen.width,) * len(self.depths)
        self.strides = ((chosen.patch,) * dims,) * len(self.depths)
        self.grid = (chosen.grid,) * dims
        self.heads = chosen.heads
        self.p_dropout = 0.0
        self.cls_token = nn.Parameter(torch.empty(1, 1, chosen.width))
        self.pos_embed = nn.Parameter(torch.empty(1, 1 + math.prod(self.grid), chosen.width))
        nn.init.normal_(self.cls_token, std=1e-6)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        self.patch_embed = PatchEmbedding(dims, in_channels, chosen.width, chosen.patch)
        self.blocks = nn.Sequential(
            *(Block(chosen.width, chosen.heads) for _ in range(self.depths[-1]))
        )
        self.norm = nn.LayerNorm(chosen.width, eps=1e-6)
        for module in self.blocks.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def drop(self, p: float) -> None:
        """Drop numbers of the embedded tokens and inside the blocks in training, with this probability (0 as built)."""
        self.p_dropout = p
        for module in self.blocks.modules():
            if isinstance(module, Mlp):
                module.p_dropout = p

    def forward(self, image: Tensor) -> list[Tensor]:
        """Compute four maps from ``batch channel *space``, shallow to deep."""
        return self.with_class(image)[0]

    def with_class(self, image: Tensor) -> tuple[list[Tensor], Tensor]:
        """Compute the four maps, and the class token after the last block, normalised: ``batch width``."""
        check_image(self, image, positions=2)
        laid = self.patch_embed(_padded(image, self.strides[0]))
        grid = tuple(laid.shape[2:])
        tokens = torch.cat(
            [self.cls_token.expand(len(laid), -1, -1), laid.flatten(2).transpose(1, 2)], dim=1
        )
        tokens = tokens + resize_positions(self.pos_embed, self.grid, grid)
        tokens = F.dropout(tokens, self.p_dropout, self.training)
        maps: list[Tensor] = []
        shown = tokens
        for depth, block in enumerate(self.blocks, start=1):
            tokens = block(tokens)
            if depth in self.depths:
                shown = self.norm(tokens) if depth == self.depths[-1] else tokens
                maps.append(shown[:, 1:].transpose(1, 2).reshape(len(laid), -1, *grid))
        return maps, shown[:, 0]


def resize_positions(positions: Tensor, old: Sequence[int], new: Sequence[int]) -> Tensor:
    """Interpolate learned positions ``1 1+token width`` from one grid of tokens to another, linearly.

    The first position belongs to the class token and stays.

    >>> resize_positions(torch.arange(5.0).view(1, 5, 1), (2, 2), (1, 1)).flatten()
    tensor([0.0000, 2.5000])
    """
    if tuple(old) == tuple(new):
        return positions
    own, learned = positions[:, :1], positions[:, 1:]
    laid = learned.transpose(1, 2).reshape(1, -1, *old)
    mode = "bilinear" if len(old) == 2 else "trilinear"
    resized = F.interpolate(laid, size=tuple(new), mode=mode, align_corners=False)
    return torch.cat([own, resized.flatten(2).transpose(1, 2)], dim=1)


def _padded(image: Tensor, multiple: Sequence[int]) -> Tensor:
    missing = [-edge % step for edge, step in zip(image.shape[2:], multiple, strict=True)]
    if not any(missing):
        return image
    return F.pad(
        image, [side for many in reversed(missing) for side in (0, many)], mode="replicate"
    )
