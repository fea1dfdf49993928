"""Teachers: networks whose weights are a moving average of a student's."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn


class Teacher(nn.Module):
    """A copy of a student that no optimiser moves, but that follows it.

    The student's modules are called one on the other, as in ``nn.Sequential``; none of their weights is shared, and
    calling a teacher records no gradient.

    Parameters
    ----------
    student
        Modules from the image to the embedding.

    >>> student = nn.Linear(1, 1)
    >>> teacher = Teacher(student)                                # starts as a copy
    >>> start = float(student.weight.detach())
    >>> _ = nn.init.constant_(student.weight, start + 1)
    >>> teacher.follow(student, momentum=0.75)
    >>> round(float(teacher.copies[0].weight) - start, 4)
    0.25
    """

    def __init__(self, *student: nn.Module) -> None:
        super().__init__()
        self.copies = nn.ModuleList(copy.deepcopy(module) for module in student)
        self.requires_grad_(False)

    def forward(self, image: Tensor) -> Any:
        """Compute what the student would, without gradient."""
        return self.outputs(image)[-1]

    @torch.no_grad()
    def outputs(self, image: Tensor) -> list[Any]:
        """Compute what each module gives, one called on the other, without gradient."""
        out: Any = image
        given: list[Any] = []
        for module in self.copies:
            out = module(out)
            given.append(out)
        return given

    @torch.no_grad()
    def follow(self, *student: nn.Module, momentum: float) -> None:
        """Move every weight: ``momentum`` of its own, the rest of the student's; with 0 it becomes a copy.

        Buffers keep what the teacher's own batches made of them (running means of batch normalisation), except where
        the momentum is 0, which copies them too.

        Parameters
        ----------
        student
            The modules that the teacher was made of, in the same order.
        momentum
            Share of a weight that stays, in [0, 1].
        """
        if not 0 <= momentum <= 1:
            raise ValueError(f"a momentum of {momentum} is not in [0, 1]")
        for own, module in zip(self.copies, student, strict=True):
            if momentum == 0:
                own.load_state_dict(module.state_dict())
                continue
            kept, new = ([each.detach() for each in side.parameters()] for side in (own, module))
            torch._foreach_lerp_(kept, new, 1 - momentum)


def rising(first: float, done: float) -> float:
    """Let a teacher's momentum rise from its first value to 1 on half a cosine (BYOL, Grill et al., NeurIPS 2020).

    Parameters
    ----------
    first
        Momentum of the first step.
    done
        Share of the training that is done; beyond 1 counts as 1.

    >>> [round(rising(0.99, done), 3) for done in (0, 0.5, 1)]
    [0.99, 0.995, 1.0]
    """
    return 1 - (1 - first) * (math.cos(math.pi * min(done, 1.0)) + 1) / 2
