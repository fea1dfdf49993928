"""Few-shot segmentation without gradients: prototypes of labelled slices segment the slices of new scans.

Protocol of Ouyang et al., ECCV 2020.  For every organ, the slices that hold it in a labelled scan are cut into three equal
parts; the slice in the middle of each (at 1/6, 1/2 and 5/6 of the list) is a support.  A slice of a new scan is segmented
by the supports of the part that it lies in, between the organ's first and last slice there.  Where these are not known,
the supports of all parts answer together, and every slice is looked at.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self, cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from unlabeled.data.labels import Labels, find_labels
from unlabeled.data.slices import Slice
from unlabeled.data.store import Record
from unlabeled.errors import DataError, OptionError
from unlabeled.methods._base import Monitor
from unlabeled.nn.encoders import Encoder
from unlabeled.nn.prototypes import (
    CELL_THRESHOLD,
    SHARPNESS,
    GridEmbedding,
    Prototypes,
    mask_on_grid,
    pool_prototypes,
    prototype_score,
)
from unlabeled.nn.weights import load_weights
from unlabeled.transfer.task import FinetuneOptions, Given
from unlabeled.transfer.tasks import UntrainedMasks

PARTS = 3  # that an organ's slices are cut into (official code)
SLICES_AT_ONCE = 8
BEYOND = -1  # part of a slice before an organ's first or after its last one
_NEVER = -3 * SHARPNESS  # less than scores can differ by


class Memory(nn.Module):
    """The prototypes of one class, background and foreground, part by part.

    Parameters
    ----------
    counts
        Prototypes of background and foreground of each part.
    width
        Features of a prototype.
    """

    def __init__(self, counts: Sequence[Sequence[int]], width: int) -> None:
        super().__init__()
        for part, (back, fore) in enumerate(counts):
            self.register_buffer(f"back{part}", torch.zeros(back, width))
            self.register_buffer(f"fore{part}", torch.zeros(fore, width))
        self.parts = len(counts)

    @classmethod
    def of(cls, pairs: Sequence[tuple[Tensor, Tensor]]) -> Memory:
        """Keep ``count width`` of background and foreground of each part."""
        made = cls([[len(back), len(fore)] for back, fore in pairs], pairs[0][0].shape[1])
        for part, (back, fore) in enumerate(pairs):
            made.get_buffer(f"back{part}").copy_(back)
            made.get_buffer(f"fore{part}").copy_(fore)
        return made

    def counts(self) -> list[list[int]]:
        """Count the prototypes of background and foreground of each part."""
        return [[len(each) for each in self.pair(part)] for part in range(self.parts)]

    def pair(self, part: int | None) -> tuple[Tensor, Tensor]:
        """Give the background's and the foreground's of one part, or of all."""
        chosen = range(self.parts) if part is None else [part]
        back = torch.cat([self.get_buffer(f"back{each}") for each in chosen])
        return back, torch.cat([self.get_buffer(f"fore{each}") for each in chosen])

    def margin(self, features: Tensor, part: int | None) -> Tensor:
        """Say how much more a slice's positions are alike to the class than to the rest, ``slice rows columns``."""
        scores = []
        for vectors in self.pair(part):
            each = vectors.to(features.device).expand(len(features), -1, -1)
            there = torch.ones(each.shape[:2], dtype=torch.bool, device=features.device)
            scores.append(prototype_score(features, Prototypes(each, there)))
        return scores[1] - scores[0]


class FewShot(UntrainedMasks):
    """Prototypes of the labelled slices say the class of every pixel; nothing is trained.

    Parameters
    ----------
    options, encoder
        As in `Task`.
    classes
        What the masks hold.
    width, stride, window
        Features a position, edge of a position [pixel], edge of a prototype's cell [position]: as pretrained.
    threshold
        Share of a cell that a class must exceed for a local prototype.
    """

    kind = "few-shot"
    gradients = False
    monitor = Monitor("dice", "higher")

    def __init__(
        self,
        options: FinetuneOptions,
        encoder: Encoder,
        classes: Labels,
        *,
        width: int = 256,
        stride: int = 8,
        window: int = 2,
        threshold: float = CELL_THRESHOLD,
    ) -> None:
        super().__init__(options, encoder)
        self.classes, self.window, self.threshold = classes, window, threshold
        self.embedding = GridEmbedding(encoder, width, stride)
        self.memories = nn.ModuleList()

    @classmethod
    def build(cls, given: Given) -> Self:
        """Find the classes in the masks, and the features' grid among the pretraining's options."""
        if given.encoder.dims != 2:
            raise OptionError("few-shot segmentation works on slices", "Give --dims 2.")
        classes = find_labels(given.records, given.label_names, mode=given.options.labels)
        told = given.metadata.get("options") or {}
        names = {
            "width": "width",
            "stride": "stride",
            "test_window": "window",
            "cell_threshold": "threshold",
        }
        known = {ours: told[name] for name, ours in names.items() if name in told}
        return cls(given.options, given.encoder, classes, **known)

    @classmethod
    def restore(
        cls, described: Mapping[str, Any], options: FinetuneOptions, encoder: Encoder
    ) -> Self:
        """Build the task with as many prototypes as it took."""
        made = cls(options, encoder, Labels.from_metadata(described["labels"]), **described["grid"])
        width = described["grid"]["width"]
        made.memories.extend(Memory(counts, width) for counts in described["prototypes"])
        return made

    def load(self, given: Given, notes: list[str]) -> set[str]:
        """Load the features' last layer where the pretraining carried one."""
        held = {
            name.removeprefix("embedding."): tensor
            for name, tensor in given.tensors.items()
            if name.startswith("embedding.")
        }
        if not held:
            notes.append(
                "the pretraining carries no embedding: its features pass a random linear layer"
            )
            return set()
        report = load_weights(self.embedding, held, source="the embedding", least=1.0)
        return {f"embedding.{name}" for name in report.matched}

    def fit(self, records: Sequence[Record]) -> None:
        """Take the prototypes of every class from the labelled scans."""
        memories = []
        for one, name in enumerate(self.classes.names[1:], start=1):
            pairs = self._pool_class(records, one)
            if not pairs:
                raise DataError(
                    f"no training scan holds {name}, so nothing says what it looks like",
                    "Put a scan with it into the training part: the manifest's column `split`.",
                )
            memories.append(Memory.of(pairs))
        self.memories = nn.ModuleList(memories)

    def own_logits(self, record: Record) -> Tensor:
        """Compute ``class *space``: 0 for the background, for a class how much more alike a pixel is to it.

        Where the scan has a mask, each class's first and last slice are taken from there, as published.
        """
        depth = record.space[2] if record.dims == 3 else 1
        rows, columns = record.space[:2]
        out = torch.zeros(len(self.classes.names), rows, columns, depth)
        parts = self.parts_of(record)
        for first in range(0, depth, SLICES_AT_ONCE):
            planes = range(first, min(depth, first + SLICES_AT_ONCE))
            features = self.features(_slices(record, planes).to(self.device))
            for one, memory in enumerate(self.memories, start=1):
                here = parts[one - 1][first : planes.stop]
                margins = self._margins(_as_memory(memory), features, here)
                out[one, ..., first : planes.stop] = margins[..., :rows, :columns].permute(1, 2, 0)
        return out.reshape(len(out), *record.space)

    def parts_of(self, record: Record) -> list[NDArray[np.int64]]:
        """Say for each class which part of it each slice lies in: by the mask, else in none that is known.

        Returns
        -------
        list
            For each class, a number a slice: 0 to 2, `BEYOND`, or the number of parts where nothing is known.
        """
        depth = record.space[2] if record.dims == 3 else 1
        if record.mask is None:
            return [np.full(depth, _as_memory(each).parts) for each in self.memories]
        classes = self._classes_by_plane(record)
        return [
            place_in_thirds(classes == one, _as_memory(memory).parts)
            for one, memory in enumerate(self.memories, start=1)
        ]

    def features(self, image: Tensor) -> Tensor:
        """Compute ``slice width *grid`` of whole slices; edges are filled up to whole strides of the encoder."""
        space = image.shape[2:]
        deepest = [max(each) for each in zip(*self.encoder.strides, strict=True)]
        spare = [-edge % stride for edge, stride in zip(space, deepest, strict=True)]
        filled = F.pad(image, (0, spare[1], 0, spare[0]))
        embedded: Tensor = self.embedding(self.encoder(filled), filled.shape[2:])
        return embedded

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        return next(self.parameters()).device

    def forward(self, image: Tensor) -> Tensor:
        """Compute ``slice class rows columns`` of slices whose part is not known."""
        features = self.features(image)
        margins = []
        for each in self.memories:
            memory = _as_memory(each)
            nowhere = np.full(len(image), memory.parts)
            margins.append(self._margins(memory, features, nowhere))
        rows, columns = image.shape[2:]
        found = torch.stack([torch.zeros_like(margins[0]), *margins], 1)
        return found[..., :rows, :columns]

    def describe(self) -> dict[str, Any]:
        """Give the classes, the features' grid and how many prototypes there are."""
        return {
            "kind": self.kind,
            "labels": self.classes.as_metadata(),
            "grid": {
                "width": self.embedding.project.out_channels,
                "stride": self.embedding.stride,
                "window": self.window,
                "threshold": self.threshold,
            },
            "prototypes": [_as_memory(each).counts() for each in self.memories],
        }

    def carries(self) -> dict[str, nn.Module]:
        """Carry on what it started from."""
        return {"encoder": self.encoder, "embedding": self.embedding}

    def _margins(self, memory: Memory, features: Tensor, parts: NDArray[np.int64]) -> Tensor:
        """Compute how much more alike a class is, ``slice rows columns`` of the filled slices, on the CPU."""
        rows, columns = (edge * self.embedding.stride for edge in features.shape[2:])
        out = torch.full((len(features), rows, columns), _NEVER)
        for part in np.unique(parts[parts != BEYOND]):
            chosen = np.flatnonzero(parts == part)
            margin = memory.margin(features[chosen], None if part == memory.parts else int(part))
            large = F.interpolate(margin[:, None], size=(rows, columns), mode="bilinear")
            out[chosen] = large[:, 0].cpu()
        return out

    def _pool_class(self, records: Sequence[Record], one: int) -> list[tuple[Tensor, Tensor]]:
        """Pool the prototypes of one class, background and foreground of each part; nothing where no scan holds it."""
        parts = PARTS if any(record.dims == 3 for record in records) else 1
        pooled: list[list[tuple[Tensor, Tensor]]] = [[] for _ in range(parts)]
        for record in records:
            truth = self._classes_by_plane(record) == one
            planes = np.flatnonzero(truth.any(axis=(0, 1)))
            if not len(planes):
                continue
            for part, plane in enumerate(support_planes(planes.tolist(), parts)):
                region = torch.from_numpy(truth[..., plane]).float()[None]
                pooled[part].append(self._pool(_slices(record, [plane]), region))
        if not pooled[0]:
            return []
        return [
            (torch.cat([back for back, _ in each]), torch.cat([fore for _, fore in each]))
            for each in pooled
        ]

    def _pool(self, image: Tensor, region: Tensor) -> tuple[Tensor, Tensor]:
        """Pool one support slice ``1 channel rows columns``: prototypes ``count width`` of background and foreground."""
        features = self.features(image.to(self.device))
        spare = [
            edge * self.embedding.stride - size
            for edge, size in zip(features.shape[2:], region.shape[1:], strict=True)
        ]
        filled = F.pad(region.to(features.device), (0, spare[1], 0, spare[0]))
        mask, window = mask_on_grid(filled, features.shape[2:]), (self.window, self.window)
        kept = []
        for each, whole in ((1 - mask, False), (mask, True)):
            found = pool_prototypes(features, each, window, threshold=self.threshold, whole=whole)
            kept.append(found.vectors[found.there])
        return kept[0], kept[1]

    def _classes_by_plane(self, record: Record) -> NDArray[np.int64]:
        """Read the classes of a scan's mask, ``rows columns plane``."""
        whole = record.mask_patch((0,) * record.dims, record.space)
        return self.classes.encode(whole).reshape(*record.space[:2], -1).numpy()


def support_planes(planes: Sequence[int], parts: int = PARTS) -> list[int]:
    """Choose the slice in the middle of each part of a list of slices.

    >>> support_planes(range(10, 22))                                     # at 1/6, 1/2 and 5/6 of twelve
    [12, 16, 20]
    >>> support_planes([7])
    [7, 7, 7]
    """
    return [planes[int((2 * part + 1) / (2 * parts) * len(planes))] for part in range(parts)]


def place_in_thirds(truth: NDArray[np.bool_], parts: int = PARTS) -> NDArray[np.int64]:
    """Say in which part of an organ's extent each slice lies, `BEYOND` outside of it.

    Parameters
    ----------
    truth
        Where the organ is, ``rows columns plane``.
    parts
        How many parts there are.

    >>> place_in_thirds(np.array([[[0, 1, 1, 0, 1, 1, 1, 1, 0]]], bool)).tolist()
    [-1, 0, 0, 0, 1, 1, 2, 2, -1]
    """
    held = np.flatnonzero(truth.any(axis=(0, 1)))
    placed = np.full(truth.shape[2], BEYOND)
    if len(held):
        extent = held[-1] - held[0] + 1
        placed[held[0] : held[-1] + 1] = np.arange(extent) * parts // extent
    return placed


def _slices(record: Record, planes: Sequence[int]) -> Tensor:
    """Read whole slices, ``slice channel rows columns``."""
    return torch.stack([Slice(record, n).patch((0, 0), record.space[:2]) for n in planes])


def _as_memory(module: nn.Module) -> Memory:
    return cast(Memory, module)
