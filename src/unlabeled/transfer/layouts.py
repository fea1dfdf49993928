"""How the tensors of an encoder are named in other tools: nnU-Net, MONAI, timm."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from unlabeled.nn.encoders import Encoder
from unlabeled.nn.resenc import ResidualEncoder

#: Names in timm, by our names; all are 2D.
TIMM = {
    "resnet18": "resnet18",
    "resnet50": "resnet50",
    "vit-tiny": "vit_tiny_patch16_224",
    "vit-s": "vit_small_patch16_224",
    "vit": "vit_base_patch16_224",
}

_LAYER = re.compile(r"^(.*)\b(conv|norm)\.(weight|bias)$")
_MONAI_VIT = (
    (re.compile(r"^patch_embed\.proj\."), "patch_embedding.patch_embeddings."),
    (re.compile(r"\.attn\.proj\."), ".attn.out_proj."),
    (re.compile(r"\.mlp\.fc([12])\."), r".mlp.linear\1."),
)


def nnunet_tensors(
    encoder: Mapping[str, Tensor], decoder: Mapping[str, Tensor], *, reverse: bool = False
) -> dict[str, Tensor]:
    """Name the tensors of a residual encoder and its decoder as nnU-Net's network does, second names included.

    nnU-Net registers every convolution and normalisation twice (``conv`` and ``all_modules.0``, ``norm`` and
    ``all_modules.1``) and the encoder again inside the decoder; its loader wants every name.  The layers that give
    classes (``seg_layers``) are left out, as it does not load them.

    Parameters
    ----------
    encoder, decoder
        Their state dicts.
    reverse
        Whether to reverse the axes of space of every kernel: arrays of nnU-Net run z, y, x, ours x, y, z.
    """
    named: dict[str, Tensor] = {}
    for name, tensor in encoder.items():
        for place in ("encoder.", "decoder.encoder."):
            named |= _twice(place + name, tensor)
    for name, tensor in decoder.items():
        if not name.startswith("head."):
            named |= _twice("decoder." + name, tensor)
    if reverse:
        turned = {id(t): _reversed(t) for t in named.values()}
        return {name: turned[id(tensor)] for name, tensor in named.items()}
    return named


def nnunet_architecture(encoder: ResidualEncoder) -> dict[str, Any]:
    """Describe the network as the entry ``architecture`` of a configuration in ``nnUNetPlans.json``."""
    dims, stages = encoder.dims, len(encoder.channels)
    return {
        "network_class_name": "dynamic_network_architectures.architectures.unet.ResidualEncoderUNet",
        "arch_kwargs": {
            "n_stages": stages,
            "features_per_stage": list(encoder.channels),
            "conv_op": f"torch.nn.modules.conv.Conv{dims}d",
            "kernel_sizes": [[3] * dims] * stages,
            "strides": [[1] * dims] + [[2] * dims] * (stages - 1),
            "n_blocks_per_stage": list(encoder.blocks),
            "n_conv_per_stage_decoder": [1] * (stages - 1),
            "conv_bias": True,
            "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{dims}d",
            "norm_op_kwargs": {"eps": 1e-5, "affine": True},
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        },
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }


def monai_tensors(encoder: Encoder) -> dict[str, Tensor] | None:
    """Name the tensors of an encoder as the MONAI network with the same ones does; None where there is none.

    ``resnet18/50`` keep their names.  A transformer becomes MONAI's ``ViT`` with a class token: there the token has no
    position of its own, so ours is added to it; the unused ``norm_cross_attn`` of every block is the identity.
    """
    state = dict(encoder.state_dict())
    if encoder.name.startswith("resnet"):
        return state
    if not encoder.name.startswith("vit"):
        return None
    positions = state.pop("pos_embed")
    state["cls_token"] = state["cls_token"] + positions[:, :1]
    named = {"patch_embedding.position_embeddings": positions[:, 1:].clone()}
    for name, tensor in state.items():
        theirs = name
        for ours, other in _MONAI_VIT:
            theirs = ours.sub(other, theirs)
        named[theirs] = tensor
        if name.endswith(".norm1.weight"):
            named[theirs.replace("norm1", "norm_cross_attn")] = torch.ones_like(tensor)
        if name.endswith(".norm1.bias"):
            named[theirs.replace("norm1", "norm_cross_attn")] = torch.zeros_like(tensor)
    return named


def monai_call(encoder: Encoder) -> str:
    """Write the call that makes the MONAI network whose tensors `monai_tensors` names."""
    dims, channels = encoder.dims, encoder.in_channels
    if encoder.name.startswith("resnet"):
        return (
            f"monai.networks.nets.{encoder.name}(spatial_dims={dims}, n_input_channels={channels}, "
            'conv1_t_stride=2, shortcut_type="B", bias_downsample=False, feed_forward=False)'
        )
    width, patch = encoder.channels[0], encoder.strides[0][0]
    state = encoder.state_dict()
    edge = patch * round((state["pos_embed"].shape[1] - 1) ** (1 / dims))
    return (
        f"monai.networks.nets.ViT(in_channels={channels}, img_size={edge}, patch_size={patch}, hidden_size={width}, "
        f"mlp_dim={4 * width}, num_heads={width // 64}, qkv_bias=True, classification=True, spatial_dims={dims})"
    )


def _twice(name: str, tensor: Tensor) -> dict[str, Tensor]:
    match = _LAYER.match(name)
    if match is None:
        return {name: tensor}
    owner, layer, kind = match.groups()
    return {name: tensor, f"{owner}all_modules.{0 if layer == 'conv' else 1}.{kind}": tensor}


def _reversed(tensor: Tensor) -> Tensor:
    if tensor.ndim < 4:
        return tensor
    return tensor.permute(0, 1, *range(tensor.ndim - 1, 1, -1)).contiguous()
