"""In- and out-painting against the plain version and against the published statistics."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from unlabeled.rng import generator
from unlabeled.transforms.masking import Box, InPaint, OutPaint, Paint, uniform_noise

SPACE = (64, 64, 32)
spaces = st.one_of(
    st.tuples(*[st.integers(1, 50)] * 2),
    st.tuples(*[st.integers(1, 40)] * 3),
)


def covered(boxes: tuple[Box, ...], space: tuple[int, ...]) -> float:
    """Give the fraction of the image that lies in any box."""
    inside = np.zeros((1, *space), bool)
    for box in boxes:
        inside[box.region] = True
    return float(inside.mean())


def after_the_chance(seed: int) -> torch.Generator:
    """Give the generator as a call uses it after it has drawn whether to paint at all."""
    rng = generator(seed)
    torch.rand((), dtype=torch.float64, generator=rng)
    return rng


@settings(max_examples=30, deadline=None)
@given(space=spaces, seed=st.integers(0, 10_000))
def test_inpainting_equals_the_plain_version(plain, space, seed):
    image = torch.rand(2, *space, generator=generator(seed, "image"))
    rng = after_the_chance(seed)
    boxes = InPaint().draw(space, rng)
    noises = [uniform_noise((2, *box.size), rng).numpy() for box in boxes]
    drawn = [(box.start, box.size) for box in boxes]
    expected = plain.plain_inpaint(image.numpy(), drawn, noises)
    assert np.array_equal(InPaint()(image, generator(seed)).numpy(), expected)


@settings(max_examples=30, deadline=None)
@given(space=spaces, seed=st.integers(0, 10_000))
def test_outpainting_equals_the_plain_version(plain, space, seed):
    image = torch.rand(2, *space, generator=generator(seed, "image"))
    rng = after_the_chance(seed)
    boxes = OutPaint().draw(space, rng)
    noise = uniform_noise((2, *space), rng).numpy()
    expected = plain.plain_outpaint(image.numpy(), [(b.start, b.size) for b in boxes], noise)
    assert np.array_equal(OutPaint()(image, generator(seed)).numpy(), expected)


@pytest.mark.parametrize(
    ("paint", "edges", "certain"),
    [
        (InPaint(), ((10, 21), (10, 21), (5, 10)), 0),
        (OutPaint(), ((28, 37), (28, 37), (14, 19)), 1),
    ],
)
def test_published_ranges(paint, edges, certain):
    """Every edge length that is published occurs and no other; starts stay 3 voxels off the borders."""
    rng = generator(0, "ranges")
    draws = [paint.draw(SPACE, rng) for _ in range(600)]
    boxes = [box for drawn in draws for box in drawn]
    for axis, (low, high) in enumerate(edges):
        assert {box.size[axis] for box in boxes} == set(range(low, high + 1))
        assert min(box.start[axis] for box in boxes) == 3
        assert max(box.start[axis] + box.size[axis] for box in boxes) == SPACE[axis] - 3
    assert min(map(len, draws)) == certain
    assert max(map(len, draws)) == 5


def test_published_inpainted_fraction(golden):
    """Mean replaced fraction 0.056 +- 0.002 over 1000 draws, none at all in a twentieth of them."""
    theirs = np.load(golden / "models-genesis" / "statistics.npz")["inpaint_fraction"]
    rng = generator(0, "inpaint")
    ours = [covered(InPaint().draw(SPACE, rng), SPACE) for _ in range(1000)]
    assert abs(np.mean(ours) - 0.056) < 0.002
    assert stats.ks_2samp(ours, theirs).pvalue > 1e-3
    assert 0.02 < np.mean(np.array(ours) == 0) < 0.08


def test_published_outpainting_kept_fraction(golden):
    """Mean kept fraction 0.318 +- 0.005 over 1000 draws."""
    theirs = np.load(golden / "models-genesis" / "statistics.npz")["outpaint_kept_fraction"]
    rng = generator(0, "outpaint")
    ours = [covered(OutPaint().draw(SPACE, rng), SPACE) for _ in range(1000)]
    assert abs(np.mean(ours) - 0.318) < 0.005
    assert stats.ks_2samp(ours, theirs).pvalue > 1e-3


@pytest.mark.parametrize(("name", "outside"), [("inpaint_mask", 0), ("outpaint_noise_mask", 1)])
def test_published_examples_look_alike(golden, name, outside):
    """The published masks are unions of boxes, off the borders, with fractions that ours reach too."""
    mask = np.load(golden / "models-genesis" / "painting_shuffle_examples.npz")[name]
    paint = InPaint() if outside == 0 else OutPaint()
    drawn = [covered(paint.draw(SPACE, generator(i)), SPACE) for i in range(100)]
    share = float((mask != outside).mean())
    assert min(drawn) <= share <= max(drawn)
    frame = np.ones(mask.shape, bool)
    frame[:, 3:-3, 3:-3, 3:-3] = False
    assert (mask[frame] == outside).all()


@pytest.mark.parametrize("paint", [InPaint(), OutPaint(), Paint()])
@settings(max_examples=15, deadline=None)
@given(space=spaces, seed=st.integers(0, 10_000))
def test_any_size_and_the_input_stay(paint, space, seed):
    image = torch.full((1, *space), -1.0)
    painted = paint(image, generator(seed))
    assert painted.shape == image.shape
    assert (image == -1).all()
    noise = painted[painted != -1]
    assert ((noise >= 0) & (noise < 1)).all()


def test_noise_is_uniform():
    noise = uniform_noise((1, 64, 64, 31), generator(0)).flatten()
    assert 0 <= noise.min() < noise.max() < 1
    assert stats.kstest(noise.numpy(), "uniform").pvalue > 1e-3
    assert abs(np.corrcoef(noise[:-1], noise[1:])[0, 1]) < 0.01
    assert abs(np.corrcoef(noise[:-2], noise[2:])[0, 1]) < 0.01
    assert len(noise.unique()) > 0.99 * len(noise)
    assert uniform_noise((3, 3), generator(1)).flatten()[-1] != 0


def test_share_of_inpainting():
    """Painting inside or outside, never both: a border voxel is noise exactly where the centre may stay."""
    image = torch.full((1, 32, 32), -1.0)
    rng = generator(0, "share")
    counts = {"out": 0, "in or none": 0}
    for _ in range(500):
        border = Paint(1.0, 0.2)(image, rng)[0, [0, -1]]
        assert (border == -1).all() or (border != -1).all()
        counts["out" if (border != -1).all() else "in or none"] += 1
    assert stats.binomtest(counts["out"], 500, 0.8).pvalue > 1e-3


def test_probability_zero_is_the_identity():
    image = torch.rand(1, 20, 20)
    for paint in (InPaint(p=0), OutPaint(p=0), Paint(p=0)):
        same = paint(image, generator(0))
        assert torch.equal(same, image)
        assert same.data_ptr() != image.data_ptr()


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_dtype_stays(dtype):
    for paint in (InPaint(), OutPaint()):
        assert paint(torch.zeros(1, 20, 20, dtype=dtype), generator(0)).dtype == dtype


def test_whole_numbers_are_refused():
    for paint in (InPaint(), OutPaint()):
        with pytest.raises(TypeError, match="int64"):
            paint(torch.zeros(1, 20, 20, dtype=torch.int64), generator(0))
