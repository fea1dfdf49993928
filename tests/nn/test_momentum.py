"""A teacher follows its student, and nothing else moves it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from unlabeled.nn.momentum import Teacher


def student(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(12, 2))


def test_starts_as_a_copy_that_shares_nothing():
    own = student()
    teacher = Teacher(own[:2], own[2:])
    image = torch.rand(4, 1, 4, 4)
    assert torch.equal(teacher(image), own(image))
    shared = {each.data_ptr() for each in own.parameters()}
    assert not shared & {each.data_ptr() for each in teacher.parameters()}


def test_follows_as_published(golden):
    arrays = np.load(golden / "c2l" / "momentum.npz")
    for momentum, after in ((0.999, "teacher_after_0999"), (0.0, "teacher_after_0")):
        own = nn.Linear(3, 2, bias=False)
        teacher = Teacher(own)
        own.weight.data = torch.from_numpy(arrays["student"])
        teacher.copies[0].weight.data = torch.from_numpy(arrays["teacher_before"].copy())
        teacher.follow(own, momentum=momentum)
        np.testing.assert_allclose(teacher.copies[0].weight, arrays[after], rtol=0, atol=1e-6)


def test_with_momentum_one_it_stays_and_with_zero_it_is_the_student():
    teacher, own = Teacher(student()), student(1)
    before = [each.clone() for each in teacher.parameters()]
    teacher.follow(own, momentum=1.0)
    assert all(map(torch.equal, before, teacher.parameters()))
    own.train()(torch.rand(4, 1, 4, 4))
    teacher.follow(own, momentum=0.0)
    assert all(map(torch.equal, own.state_dict().values(), teacher.state_dict().values()))


def test_batch_statistics_are_of_its_own_batches():
    own = student()
    teacher = Teacher(own).train()
    mine, theirs = torch.rand(8, 1, 4, 4), torch.rand(8, 1, 4, 4) + 1
    own(mine)
    teacher(theirs)
    before = teacher.copies[0][1].running_mean.clone()
    teacher.follow(own, momentum=0.5)
    assert torch.equal(teacher.copies[0][1].running_mean, before)
    assert not torch.allclose(before, own[1].running_mean)


def test_no_gradient_and_nothing_to_optimise():
    own = student()
    teacher = Teacher(own)
    assert not any(each.requires_grad for each in teacher.parameters())
    assert not teacher(torch.rand(2, 1, 4, 4)).requires_grad
    own(torch.rand(2, 1, 4, 4)).sum().backward()
    assert all(each.grad is None for each in teacher.parameters())


def test_wrong_use_is_named():
    teacher = Teacher(student())
    with pytest.raises(ValueError, match=r"1\.5"):
        teacher.follow(student(), momentum=1.5)
    with pytest.raises(ValueError, match="zip"):
        teacher.follow(student(), student(), momentum=0.5)


def test_what_each_module_gives():
    own = student().eval()
    teacher = Teacher(own[:2], own[2:]).eval()
    image = torch.rand(4, 1, 4, 4)
    maps, embedding = teacher.outputs(image)
    assert torch.equal(maps, own[:2](image))
    assert torch.equal(embedding, teacher(image))
    assert not maps.requires_grad
