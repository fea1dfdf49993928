"""Brightness and contrast."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from unlabeled.rng import generator
from unlabeled.transforms.brightness import BrightnessContrast, Gain, multiply


def test_draws_fill_their_ranges() -> None:
    drawn = BrightnessContrast(0.3, 0.2).draw(4000, generator(0))
    low, high = drawn.amin(0), drawn.amax(0)
    assert -0.3 <= low[0] < -0.29
    assert 0.29 < high[0] <= 0.3
    assert 0.8 <= low[1] < 0.81
    assert 1.19 < high[1] <= 1.2


@given(seed=st.integers(0, 10**6))
def test_where_nothing_is_clipped_geometry_is_untouched(seed: int) -> None:
    """The change is linear: images before and after correlate perfectly."""
    change = BrightnessContrast(high=10.0)
    image = 2 + torch.rand(1, 12, 12, generator=generator(seed, "image"))
    made = change.apply(image, change.draw(1, generator(seed))[0])
    both = torch.stack([image.flatten(), made.flatten()])
    assert torch.corrcoef(both)[0, 1] > 0.999999


def test_changes_belong_to_their_images_and_channels_have_means_of_their_own() -> None:
    change = BrightnessContrast()
    images = torch.rand(2, 3, 2, 8, 8)
    drawn = change.draw(6, generator(0)).view(2, 3, 2)
    whole = change.apply(images, drawn)
    for i in range(2):
        for j in range(3):
            alone = torch.cat(
                [change.apply(images[i, j, c : c + 1], drawn[i, j]) for c in range(2)]
            )
            torch.testing.assert_close(whole[i, j], alone)
    assert whole.min() >= 0
    assert whole.max() <= 1.5


def test_nothing_asked_for_is_nothing_done() -> None:
    change = BrightnessContrast(0.0, 0.0)
    image = torch.rand(1, 8, 8)
    torch.testing.assert_close(change.apply(image, change.draw(1, generator(0))[0]), image)


@given(seed=st.integers(0, 10**6), factor=st.floats(0.5, 1.5))
def test_multiplied_intensities_stay_in_the_range(seed: int, factor: float) -> None:
    image = torch.randn(2, 6, 6, generator=generator(seed))
    made = multiply(image, factor)
    assert made.min() >= image.min()
    assert made.max() <= image.max()
    inside = (made > image.min()) & (made < image.max())
    torch.testing.assert_close(made[inside], (image * factor)[inside])


def test_factors_fill_their_range_and_chances_are_kept() -> None:
    image = torch.tensor([[-10.0, 1.0, 10.0]])
    factors = [float(Gain(0.25)(image, generator(seed))[0, 1]) for seed in range(500)]
    assert 0.75 <= min(factors) < 0.76
    assert 1.24 < max(factors) <= 1.25
    kept = [torch.equal(Gain(0.25, 0.5)(image, generator(seed)), image) for seed in range(400)]
    assert 0.42 < sum(kept) / 400 < 0.58
