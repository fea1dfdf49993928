"""A critic gives one number for each patch, and can stand still while gradients go through it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from unlabeled.errors import OptionError
from unlabeled.nn.critics import ImageCritic, PatchCritic, standing_still


@pytest.mark.parametrize("dims", [2, 3])
def test_a_critic_gives_a_map(dims):
    critic = PatchCritic(2, dims=dims, width=4, layers=2)
    assert critic(torch.zeros(2, 2, *[32] * dims)).shape == (2, 1, *[6] * dims)


def test_one_number_looks_at_70_by_70_pixels():
    critic = PatchCritic(3).eval()
    image = torch.randn(1, 3, 256, 256, requires_grad=True)
    verdict = critic(image)
    assert verdict.shape == (1, 1, 30, 30)
    verdict[0, 0, 15, 15].backward()
    seen = image.grad[0].abs().sum(0).nonzero()
    assert (seen.amax(0) - seen.amin(0) + 1).tolist() == [70, 70]


def test_layers_are_those_of_the_patch_discriminator():
    critic = PatchCritic(3)
    convolutions = [part for part in critic.modules() if isinstance(part, nn.Conv2d)]
    assert [part.out_channels for part in convolutions] == [64, 128, 256, 512, 1]
    assert [part.stride[0] for part in convolutions] == [2, 2, 2, 1, 1]
    assert sum(isinstance(part, nn.BatchNorm2d) for part in critic.modules()) == 3
    assert {p.negative_slope for p in critic.modules() if isinstance(p, nn.LeakyReLU)} == {0.2}


def test_standing_still_lets_gradients_through_to_the_image_alone():
    critic = PatchCritic(1, width=2, layers=1)
    image = torch.randn(2, 1, 16, 16, requires_grad=True)
    with standing_still(critic):
        verdict = critic(image)
    verdict.sum().backward()
    assert image.grad is not None
    assert float(image.grad.abs().sum()) > 0
    assert all(p.grad is None and p.requires_grad for p in critic.parameters())


def test_a_critic_without_layers_is_refused():
    with pytest.raises(OptionError, match="at least one layer"):
        PatchCritic(1, layers=0)


def test_an_image_is_judged_by_itself_where_asked_for():
    image, companions = torch.randn(1, 1, 16, 16), torch.randn(3, 1, 16, 16)
    for norm, alone in (("instance", True), ("batch", False)):
        critic = PatchCritic(1, width=4, layers=2, norm=norm)
        both = critic(torch.cat([image, companions]))[:1]
        assert torch.allclose(critic(image), both, atol=1e-5) == alone
        assert bool(list(critic.buffers())) != alone


@pytest.mark.parametrize(("layers", "least"), [(1, 6), (2, 12), (3, 24)])
@pytest.mark.parametrize("dims", [2, 3])
def test_the_smallest_image_of_a_critic(layers: int, least: int, dims: int):
    critic = PatchCritic(1, dims=dims, width=2, layers=layers, norm="instance")
    critic.check((least,) * dims)
    assert critic(torch.zeros(1, 1, *[least] * dims)).shape == (1, 1, *[1] * dims)
    with pytest.raises(OptionError, match=f"critic of {layers} layers") as fault:
        critic.check((least - 1, *[64] * (dims - 1)))
    fewer = (
        f"--critic-layers {layers - 1}" if layers > 1 else " ".join(["--patch-size", *["6"] * dims])
    )
    assert fault.value.remedy == f"Give {fewer}."


@pytest.mark.parametrize("dims", [2, 3])
def test_a_critic_of_whole_images_gives_a_number_each(dims):
    critic = ImageCritic(2, dims=dims, width=4, layers=3)
    image = torch.randn(3, 2, *[16, 8, 11][:dims])
    verdict = critic(image)
    assert verdict.shape == (3,)
    assert torch.equal(critic(image.flip(0)), verdict.flip(0)), (
        "an image's number depends on it alone"
    )
    kinds = {type(part).__name__ for part in critic.modules()}
    assert not any("Norm" in kind for kind in kinds)
    assert not any(getattr(part, "inplace", False) for part in critic.modules())
    widths = [part.out_channels for part in critic.modules() if hasattr(part, "out_channels")]
    assert widths == [4, 8, 16]


def test_a_critic_of_whole_images_without_layers_is_refused():
    with pytest.raises(OptionError, match="at least one layer"):
        ImageCritic(1, layers=0)
