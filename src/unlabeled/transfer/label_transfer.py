"""Label transfer without gradients: each voxel takes the label of the labelled voxels whose descriptors are nearest.

Protocol of Blendowski et al., MICCAI 2019.  Three frozen networks look at a voxel along the three axes of the volume; what
they make of its surroundings, side by side, describes it.  Descriptors of every few voxels of some labelled volumes, the
atlases, are kept; a voxel of a new volume gets the label that most of its nearest neighbours among them have.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from unlabeled.data.labels import Labels, find_labels
from unlabeled.data.slabs import PLANES, Slab, cut_slabs, interpolate
from unlabeled.data.store import Record
from unlabeled.errors import DataError, OptionError
from unlabeled.methods._base import Monitor
from unlabeled.nn.displacement import describe_patch
from unlabeled.nn.encoders import Encoder, build_encoder
from unlabeled.nn.weights import load_weights
from unlabeled.transfer.task import FinetuneOptions, Given
from unlabeled.transfer.tasks import UntrainedMasks

AT_ONCE = 256  # slabs that a network sees together
MOST = 100_000  # descriptors that are kept of all atlases (ours)
COMPARED = 1 << 24  # distances that are computed together
RAREST = 1e-6  # share of the votes that stands for none
_OTHERS = ("sagittal", "coronal")  # networks across axis 0 and 1; `encoder` is that across axis 2


class LabelTransfer(UntrainedMasks):
    """The nearest descriptors of labelled voxels say the class of every voxel; nothing is trained.

    Parameters
    ----------
    options, encoder
        As in `Task`; the encoder's channels are planes.
    classes
        What the masks hold.
    slab
        What a network sees about a voxel, as pretrained.
    field
        Edge lengths of the box that the slab's coordinates span [voxel]; None is the whole scan.
    kept
        Descriptors to make room for.
    """

    kind = "label-transfer"
    gradients = False
    monitor = Monitor("dice", "higher")

    def __init__(
        self,
        options: FinetuneOptions,
        encoder: Encoder,
        classes: Labels,
        *,
        slab: Slab,
        field: Sequence[int] | None = None,
        kept: int = 0,
    ) -> None:
        super().__init__(options, encoder)
        self.classes, self.slab = classes, slab
        self.field = None if field is None else tuple(field)
        self.sagittal, self.coronal = (
            build_encoder(encoder.name, dims=encoder.dims, in_channels=encoder.in_channels)
            for _ in _OTHERS
        )
        self.atlas = Atlas(kept, 3 * encoder.channels[-1])

    @classmethod
    def build(cls, given: Given) -> Self:
        """Find the classes in the masks, and what a network sees among the pretraining's options."""
        if given.encoder.dims != 2:
            raise OptionError("label transfer describes voxels by planes", "Give --dims 2.")
        flat = next((record for record in given.records if record.dims != 3), None)
        if flat is not None:
            raise DataError(
                f"{flat.source.name} is a picture, and label transfer looks along three axes",
                "Leave pictures out; `unlabeled finetune few-shot` segments them by few labels.",
            )
        classes = find_labels(given.records, given.label_names, mode=given.options.labels)
        encoder = build_encoder(given.encoder.name, dims=2, in_channels=PLANES)
        told = given.metadata.get("options") or {}
        known = {name: float(told[name]) for name in ("reach", "gap") if name in told}
        slab = Slab(_two(given.options.patch_size), **known)
        return cls(given.options, encoder, classes, slab=slab, field=told.get("field"))

    @classmethod
    def restore(
        cls, described: Mapping[str, Any], options: FinetuneOptions, encoder: Encoder
    ) -> Self:
        """Build the task with room for as many descriptors as it kept."""
        seen = described["seen"]
        told = {name: described[name] for name in ("neighbours", "every")}
        return cls(
            replace(options, **told),
            encoder,
            Labels.from_metadata(described["labels"]),
            slab=Slab(_two(options.patch_size), seen["reach"], seen["gap"]),
            field=seen["field"],
            kept=described["kept"],
        )

    def load(self, given: Given, notes: list[str]) -> set[str]:
        """Load the other two networks where the pretraining carried them, else take the one for all axes."""
        taken = set()
        for name in _OTHERS:
            held = {
                inner.removeprefix(f"{name}."): tensor
                for inner, tensor in given.tensors.items()
                if inner.startswith(f"{name}.")
            }
            network = self.get_submodule(name)
            if held:
                report = load_weights(network, held, source=f"the {name} network", least=1.0)
                taken |= {f"{name}.{inner}" for inner in report.matched}
            else:
                network.load_state_dict(self.encoder.state_dict())
                notes.append(f"the pretraining carries no {name} network: the one it has stands in")
        return taken

    def fit(self, records: Sequence[Record]) -> None:
        """Keep descriptors and labels of the labelled volumes, evenly thinned where they are too many."""
        most = MOST // len(records)
        rows, labels = [], []
        for record in records:
            points = self.points(record)
            grid = np.stack(np.meshgrid(*points, indexing="ij"), -1).reshape(-1, 3)
            chosen = np.unique(np.linspace(0, len(grid) - 1, min(len(grid), most)).astype(int))
            truth = self.classes.encode(record.mask_patch((0, 0, 0), record.space))
            rows.append(self.describe_voxels(record, grid[chosen]))
            labels.append(truth[tuple(torch.from_numpy(grid[chosen]).T)])
        self.atlas.keep(torch.cat(rows), torch.cat(labels))

    def points(self, record: Record) -> list[NDArray[np.int64]]:
        """List along each axis the voxels that are described."""
        every = self.options.every
        return [np.arange(min(every // 2, edge - 1), edge, every) for edge in record.space]

    def describe_voxels(self, record: Record, voxels: NDArray[np.int64]) -> Tensor:
        """Describe voxels ``voxel 3`` of a volume: ``voxel (axis dim)``, on the networks' device."""
        volume = record.patch((0, 0, 0), record.space)[0].numpy()
        box = self.field or record.space
        networks = [_channels_last(each) for each in (self.sagittal, self.coronal, self.encoder)]
        device = next(self.parameters()).device
        columns = []
        for axis, network in enumerate(networks):
            about = self.slab.offsets(axis)
            first, second, third = (
                o * ((edge - 1) / 2) for o, edge in zip(about, box, strict=True)
            )
            parts = [
                describe_patch(
                    network,
                    cut_slabs(
                        volume, voxels[n : n + AT_ONCE].astype(float), (first, second, third), axis
                    ).to(device),
                )
                for n in range(0, len(voxels), AT_ONCE)
            ]
            columns.append(torch.cat(parts))
        return torch.cat(columns, 1).float()

    def own_logits(self, record: Record) -> Tensor:
        """Compute logarithms of the shares of votes ``class *space``; between described voxels, shares are interpolated."""
        points = self.points(record)
        grid = np.stack(np.meshgrid(*points, indexing="ij"), -1).reshape(-1, 3)
        found = self.describe_voxels(record, grid)
        shares = self.atlas.vote(found, self.options.neighbours, len(self.classes.names)).cpu()
        coarse = shares.T.reshape(-1, *map(len, points)).numpy()
        first, second, third = (
            ((np.arange(edge) - at[0]) / self.options.every).clip(0, len(at) - 1)[None]
            for edge, at in zip(record.space, points, strict=True)
        )
        fine = [interpolate(one, (first, second, third))[0] for one in coarse]
        return torch.from_numpy(np.stack(fine)).clamp(min=RAREST).log()

    def unfit(self, record: Record) -> str:
        """Say why it cannot take a scan; empty when it can."""
        if record.dims != 3:
            return "is a picture, and label transfer looks along three axes"
        if record.channels != 1:
            return f"has {record.channels} channels, and label transfer looks at one"
        return ""

    def forward(self, image: Tensor) -> Tensor:
        """Compute logarithms of the shares of votes ``batch class`` from slabs ``batch axis plane rows columns``."""
        networks = (self.sagittal, self.coronal, self.encoder)
        found = [describe_patch(each, image[:, axis]) for axis, each in enumerate(networks)]
        shares = self.atlas.vote(
            torch.cat(found, 1), self.options.neighbours, len(self.classes.names)
        )
        return shares.clamp(min=RAREST).log()

    def describe(self) -> dict[str, Any]:
        """Give the classes, what a network sees, and how many descriptors are kept."""
        field = None if self.field is None else list(self.field)
        return {
            "kind": self.kind,
            "labels": self.classes.as_metadata(),
            "seen": {"reach": self.slab.reach, "gap": self.slab.gap, "field": field},
            "neighbours": self.options.neighbours,
            "every": self.options.every,
            "kept": len(self.atlas.labels),
        }

    def carries(self) -> dict[str, nn.Module]:
        """Carry on what it started from."""
        return {"encoder": self.encoder, "sagittal": self.sagittal, "coronal": self.coronal}


class Atlas(nn.Module):
    """Descriptors of labelled voxels.

    Parameters
    ----------
    count, width
        Room for so many, of so many numbers.
    """

    rows: Tensor  # count width
    labels: Tensor  # count

    def __init__(self, count: int, width: int) -> None:
        super().__init__()
        self.register_buffer("rows", torch.zeros(count, width))
        self.register_buffer("labels", torch.zeros(count, dtype=torch.long))

    def keep(self, rows: Tensor, labels: Tensor) -> None:
        """Take descriptors ``count width`` and their labels ``count`` in place of those that are there."""
        self.rows, self.labels = rows, labels.to(rows.device)

    def vote(self, found: Tensor, neighbours: int, classes: int) -> Tensor:
        """Let the nearest by Euclidean distance vote, each alike: shares of the vote ``voxel class``.

        Parameters
        ----------
        found
            Descriptors ``voxel width``.
        neighbours
            How many vote; all, where there are fewer.
        classes
            How many there are.
        """
        count = min(neighbours, len(self.rows))
        shares = []
        for part in torch.split(found, max(1, COMPARED // len(self.rows))):
            nearest = torch.cdist(part, self.rows).topk(count, largest=False).indices
            votes = nn.functional.one_hot(self.labels[nearest], classes)
            shares.append(votes.float().mean(1))
        return torch.cat(shares)


def _two(edges: Sequence[int]) -> tuple[int, int]:
    rows, columns = edges
    return rows, columns


def _channels_last(network: Encoder) -> Encoder:
    """Copy a network into the layout in which CPUs describe slabs faster; the numbers are the same but for rounding."""
    return deepcopy(network).to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]
