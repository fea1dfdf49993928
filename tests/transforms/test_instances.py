"""Numbered objects: the three-class target against the published one and scikit-image, and their numbering."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from unlabeled.transforms.instances import BORDER, number_objects, three_classes


def test_published_target(golden) -> None:
    known = np.load(golden / "voidseg" / "three_class_target_and_loss.npz")
    for objects, target in zip(known["labels"], known["three_class"], strict=True):
        assert (three_classes(objects) == target).all()
    ours = np.stack([three_classes(objects) for objects in known["labels"]])
    assert (np.eye(3)[ours] == known["onehot"]).all()


@given(
    seed=st.integers(0, 10_000),
    most=st.integers(0, 6),
    share=st.floats(0, 1),
    space=st.one_of(
        st.tuples(*[st.integers(1, 12)] * 2),
        st.tuples(*[st.integers(1, 7)] * 3),
    ),
)
def test_the_border_is_scikit_images_outer_boundary(seed, most, share, space) -> None:
    from skimage.segmentation import find_boundaries

    rng = np.random.default_rng(seed)
    objects = (rng.integers(0, most + 1, space) * (rng.random(space) < share)).repeat(2, 0)
    objects = objects.astype(np.int16)  # of 64 bits, scikit-image's filters overflow
    classes = three_classes(objects)
    border = find_boundaries(objects, mode="outer")
    assert ((classes == BORDER) == border).all()
    assert (classes[~border] == (objects[~border] != 0)).all()


@given(seed=st.integers(0, 10_000), kind=st.sampled_from([np.uint8, np.int16, np.int64]))
def test_turning_the_image_turns_the_classes(seed, kind) -> None:
    rng = np.random.default_rng(seed)
    objects = (rng.integers(0, 9, (14, 14)) * (rng.random((14, 14)) < 0.2)).astype(kind)
    for turns in range(4):
        turned = three_classes(np.ascontiguousarray(np.rot90(objects, turns)))
        assert (turned == np.rot90(three_classes(objects), turns)).all()


def test_touching_objects_come_apart() -> None:
    objects = np.zeros((9, 9), np.uint8)
    objects[2:7, 1:4], objects[2:7, 4:8] = 1, 255
    numbered = number_objects(three_classes(objects) == 1)
    assert numbered.max() == 2
    for number in (1, 2):
        assert len(np.unique(objects[numbered == number])) == 1


def test_corners_do_not_connect() -> None:
    assert number_objects(np.eye(4, dtype=bool)).max() == 4
    assert number_objects(np.ones((2, 2, 2), bool)).max() == 1
    assert number_objects(np.zeros((3, 3), bool)).max() == 0
