"""The loss of pictures: what VGG-19 adds, where its weights come from, and the units of its channels."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from unlabeled.errors import RunError
from unlabeled.losses.pictures import SHARES, PictureLoss, VGGFeatures
from unlabeled.losses.reconstruction import total_variation


def weights(seed: int = 0) -> dict[str, torch.Tensor]:
    """Tensors named as torchvision's VGG-19 names them, the first four convolutions and one more."""
    rng = torch.Generator().manual_seed(seed)
    made = {}
    for place, entering, leaving in ((0, 3, 64), (2, 64, 64), (5, 64, 128), (7, 128, 128)):
        scale = (9 * entering / 2) ** -0.5
        made[f"features.{place}.weight"] = (
            torch.randn(leaving, entering, 3, 3, generator=rng) * scale
        )
        made[f"features.{place}.bias"] = torch.randn(leaving, generator=rng) * 0.1
    made["features.10.weight"] = torch.zeros(256, 128, 3, 3)
    return made


def test_features_are_those_of_the_named_layers():
    taken = weights()
    vgg = VGGFeatures()
    vgg.take(taken, "vgg.pth")
    picture = torch.rand(2, 3, 16, 16)
    mean, std = (
        torch.tensor(each).view(1, 3, 1, 1)
        for each in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    )
    out = (picture - mean) / std
    expected = []
    for place in (0, 2, 5, 7):
        if place == 5:
            out = F.max_pool2d(out, 2)
        out = F.relu(
            F.conv2d(
                out, taken[f"features.{place}.weight"], taken[f"features.{place}.bias"], padding=1
            )
        )
        expected.append(out)
    first, second = vgg(picture)
    torch.testing.assert_close(first, expected[1])
    torch.testing.assert_close(second, expected[3])
    assert not any(each.requires_grad for each in vgg.parameters())


@pytest.mark.parametrize("broken", ["missing", "shape"])
def test_other_weights_are_refused(broken):
    taken = weights()
    if broken == "missing":
        del taken["features.5.weight"]
    else:
        taken["features.5.weight"] = torch.zeros(64, 64, 3, 3)
    with pytest.raises(RunError, match=r"vgg\.pth holds no VGG-19: features\.5\.weight"):
        VGGFeatures().take(taken, "vgg.pth")


def test_without_features_pixels_count_fully():
    loss = PictureLoss(smoothness=2.0, features=False)
    truth, guess = torch.rand(2, 4, 3, 8, 8)
    loss.measure([truth[:1], truth[1:]])
    units = truth.abs().mean(dim=(0, 2, 3)).view(1, 3, 1, 1)
    apart = ((truth - guess).abs() / units).mean(dim=(1, 2, 3))
    torch.testing.assert_close(loss(truth, guess), apart + 2.0 * total_variation(guess))


def test_with_features_the_shares_are_the_published_ones():
    assert SHARES == (0.15, 0.70, 0.15)
    loss = PictureLoss(smoothness=0.0, features=True)
    assert loss.vgg is not None
    loss.vgg.take(weights(), "vgg.pth")
    truth, guess = torch.rand(2, 3, 3, 16, 16)
    loss.measure([truth])
    expected = torch.zeros(3)
    for share, a, b in zip(
        SHARES, (truth, *loss.vgg(truth)), (guess, *loss.vgg(guess)), strict=True
    ):
        unit = a.abs().mean(dim=(0, 2, 3))
        unit = unit.clamp(min=0.01 * float(unit.mean())).view(1, -1, 1, 1)
        expected += share * ((a - b).abs() / unit).mean(dim=(1, 2, 3))
    torch.testing.assert_close(loss(truth, guess), expected)


def test_a_dead_channel_divides_by_nothing():
    loss = PictureLoss(smoothness=0.0, features=False)
    truth = torch.rand(2, 3, 8, 8)
    truth[:, 1] = 0
    loss.measure([truth])
    assert float(loss(truth, truth + 0.1).max()) < 100
    loss.measure([torch.zeros(2, 3, 8, 8)])
    assert loss(torch.zeros(1, 3, 8, 8), torch.ones(1, 3, 8, 8)).isfinite().all()
