"""The transformer: MONAI's numbers, timm's names, positions on any grid."""

from __future__ import annotations

import pytest
import torch
from monai.networks.nets import ViT

from unlabeled.nn.encoders import build_encoder
from unlabeled.nn.vit import resize_positions


def timm_shapes(width: int, channels: int, tokens: int) -> dict[str, tuple[int, ...]]:
    """Write out the tensors of timm's ``vit_*_patch16_224`` without the classifier."""
    shapes = {
        "cls_token": (1, 1, width),
        "pos_embed": (1, tokens + 1, width),
        "patch_embed.proj.weight": (width, channels, 16, 16),
        "patch_embed.proj.bias": (width,),
        "norm.weight": (width,),
        "norm.bias": (width,),
    }
    for block in range(12):
        at = f"blocks.{block}"
        for norm in ("norm1", "norm2"):
            shapes |= {f"{at}.{norm}.weight": (width,), f"{at}.{norm}.bias": (width,)}
        for layer, leaving, entering in (
            ("attn.qkv", 3 * width, width),
            ("attn.proj", width, width),
            ("mlp.fc1", 4 * width, width),
            ("mlp.fc2", width, 4 * width),
        ):
            shapes |= {
                f"{at}.{layer}.weight": (leaving, entering),
                f"{at}.{layer}.bias": (leaving,),
            }
    return shapes


@pytest.mark.parametrize(("name", "width"), [("vit-tiny", 192), ("vit-s", 384), ("vit", 768)])
def test_2d_tensors_are_those_of_timm(name: str, width: int) -> None:
    with torch.device("meta"):
        state = build_encoder(name, dims=2, in_channels=3).state_dict()
    assert {key: tuple(value.shape) for key, value in state.items()} == timm_shapes(width, 3, 196)


def test_base_has_the_published_number_of_parameters() -> None:
    with torch.device("meta"):
        encoder = build_encoder("vit", dims=2, in_channels=3)
    assert sum(p.numel() for p in encoder.parameters()) + 1000 * 769 == 86_567_656


@pytest.mark.parametrize("dims", [2, 3])
def test_blocks_compute_what_monais_do(dims: int) -> None:
    pytest.importorskip("einops", reason="MONAI's transformer needs einops")
    encoder = build_encoder("vit-tiny", dims=dims).eval()
    theirs = ViT(1, 32, 16, hidden_size=192, mlp_dim=768, num_layers=12, num_heads=3, qkv_bias=True, spatial_dims=dims).eval()  # fmt: skip
    block, other = encoder.get_submodule("blocks.4"), theirs.blocks[4]
    names = {"attn.proj": "attn.out_proj", "mlp.fc1": "mlp.linear1", "mlp.fc2": "mlp.linear2"}
    state = block.state_dict()
    for ours, monais in names.items():
        state = {key.replace(ours, monais): value for key, value in state.items()}
    lacking, extra = other.load_state_dict(state, strict=False)
    assert not extra
    assert all("cross_attn" in key for key in lacking)
    for norm in (other.norm1, other.norm2):
        norm.eps = 1e-6
    tokens = torch.randn(2, 9, 192, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(block(tokens), other(tokens), rtol=1e-5, atol=1e-5)


def test_positions_on_their_own_grid_are_untouched_and_interpolate_linearly() -> None:
    ramp = torch.cat([torch.tensor([-7.0]), torch.arange(4.0).repeat_interleave(4)]).view(1, 17, 1)
    assert resize_positions(ramp, (4, 4), (4, 4)) is ramp
    finer = resize_positions(ramp, (4, 4), (8, 8))
    assert finer[0, 0, 0] == -7
    inside = finer[0, 1:, 0].view(8, 8)
    assert torch.equal(inside[:, 0], inside[:, -1])
    torch.testing.assert_close(inside[1:7, 0], torch.linspace(0.25, 2.75, 6))


def test_the_last_map_is_normalised_and_the_class_token_left_out() -> None:
    encoder = build_encoder("vit-tiny", dims=2).eval()
    with torch.no_grad():
        last = encoder(torch.randn(1, 1, 32, 48, generator=torch.Generator().manual_seed(0)))[-1]
    assert last.shape == (1, 192, 2, 3)
    torch.testing.assert_close(last.mean(dim=1), torch.zeros(1, 2, 3), atol=1e-5, rtol=0)


def test_maps_keep_the_image_orientation() -> None:
    """A change in one corner of the image changes the patch embedding of that corner alone."""
    encoder = build_encoder("vit-tiny", dims=3).eval()
    image = torch.zeros(1, 1, 16, 24, 32)
    changed = image.clone()
    changed[..., :8, 16:, :8] = 1
    with torch.no_grad():
        laid = (encoder.patch_embed(changed) - encoder.patch_embed(image)).abs().sum(1)[0]
    assert laid.nonzero().tolist() == [[0, 2, 0]]


def test_the_class_token_comes_with_the_same_maps() -> None:
    encoder = build_encoder("vit-tiny", dims=2).eval()
    image = torch.randn(2, 1, 32, 48, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        maps, own = encoder.with_class(image)
        plain = encoder(image)
    assert all(torch.equal(a, b) for a, b in zip(maps, plain, strict=True))
    assert own.shape == (2, 192)
    torch.testing.assert_close(own.mean(dim=1), torch.zeros(2), atol=1e-5, rtol=0)
    assert not torch.allclose(own, maps[-1].mean((2, 3)), atol=0.1)


def test_nothing_is_dropped_unless_asked() -> None:
    encoder = build_encoder("vit-tiny", dims=2).train()
    image = torch.randn(1, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        state = torch.random.get_rng_state()
        first, second = encoder(image)[-1], encoder(image)[-1]
        assert torch.equal(torch.random.get_rng_state(), state)
        encoder.drop(0.5)
        third, fourth = encoder(image)[-1], encoder(image)[-1]
    assert torch.equal(first, second)
    assert not torch.allclose(third, fourth)
