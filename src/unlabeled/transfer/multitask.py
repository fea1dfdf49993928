"""Segment and find anatomical positions at once, with one network (SSL+MultiTask of Bai et al., MICCAI 2019)."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Self

import torch.nn.functional as F
from torch import Generator, Tensor

from unlabeled.data.hearts import HeartImage
from unlabeled.data.labels import Labels, find_labels
from unlabeled.data.scan import Unit
from unlabeled.errors import DataError, OptionError
from unlabeled.losses.segmentation import box_dice, dice_cross_entropy
from unlabeled.methods._base import Feed, Phase, Update
from unlabeled.methods.anatomical_position import Options as PositionOptions
from unlabeled.nn.decoders import fit
from unlabeled.nn.encoders import Encoder
from unlabeled.transfer.task import FinetuneOptions, Given, Patch
from unlabeled.transfer.tasks import Segment, unit_range
from unlabeled.transforms.positions import (
    BOXES,
    NineBoxes,
    Positions,
    PositionViews,
    TurnZoom,
    coloured,
)

SLUG = "anatomical-position"


class MultiTask(Segment):
    """One network with two heads: classes of labelled images, and the nine boxes of all images.

    ``L = L_seg + w L_pos``: Dice + cross entropy of the labelled patches, and the cross entropy of the boxes in views of
    the studies.  The last convolution gives the classes and, behind them, background and boxes.

    Parameters
    ----------
    options, encoder, classes, quiet
        As in `Segment`.
    items
        Images whose positions are known.
    views
        How they are seen.
    """

    kind = "multi-task"
    beside: ClassVar[int] = 1 + BOXES
    studies: ClassVar[bool] = True

    def __init__(
        self,
        options: FinetuneOptions,
        encoder: Encoder,
        classes: Labels,
        *,
        items: Sequence[HeartImage] = (),
        views: PositionViews | None = None,
        quiet: Collection[str] = (),
    ) -> None:
        super().__init__(options, encoder, classes, quiet=quiet)
        self.items = tuple(items)
        self.seen = views

    @classmethod
    def build(cls, given: Given) -> Self:
        """Find the classes in the masks and the positions in the studies.

        Raises
        ------
        OptionError
            The network takes volumes, or something is to stand still.
        DataError
            In no study are the positions known.
        """
        options = given.options
        if given.encoder.dims != 2:
            raise OptionError("multi-task works on slices", "Give --dims 2.")
        if options.warmup or options.freeze != "none":
            what = "--warmup" if options.warmup else "--freeze"
            raise OptionError(f"multi-task trains all weights together, and {what} would not", "")
        known = given.metadata.get("options", {}) if given.metadata.get("slug") == SLUG else {}
        names = {
            "view",
            "box_size",
            "box_spacing",
            "middle",
            "lone_plane",
            "landmarks",
            "rotation",
            "zoom",
        }
        positions = PositionOptions(**{name: known[name] for name in names & known.keys()})
        refused = positions.sorting.refuse(given.studies)
        usable = [each for each in given.studies if each.source.name not in refused]
        items = positions.sorting.images(usable)
        if not items:
            where = options.studies or given.root
            fact = f"in no study below {where} are positions known"
            fault = next(iter(refused.values()), None)
            raise DataError(
                fact if fault is None else f"{fact}: {fault.fact}",
                "Give --studies SCANS with short-axis, 2-chamber and 4-chamber images."
                + ("" if fault is None else f" {fault.remedy}"),
            )
        rows, columns = options.patch_size
        boxes = NineBoxes(positions.box_size, positions.box_spacing)
        move = TurnZoom(positions.rotation, positions.zoom)
        views = PositionViews(boxes, move, (rows, columns))
        classes = find_labels(given.records, given.label_names, mode=options.labels)
        return cls(options, given.encoder, classes, items=items, views=views, quiet=given.quiet)

    @classmethod
    def restore(
        cls, described: Mapping[str, Any], options: FinetuneOptions, encoder: Encoder
    ) -> Self:
        """Build the task with the classes that it learnt."""
        options = replace(options, decoder=described.get("decoder", "skip"))
        return cls(options, encoder, Labels.from_metadata(described["labels"]))

    def load(self, given: Given, notes: list[str]) -> set[str]:
        """Load the decoder, and of the last convolution what finds the positions, where they were learnt before."""
        loaded = super().load(given, notes)
        if loaded and given.metadata.get("slug") == SLUG:
            own = dict(self.decoder.named_parameters())
            count = len(self.classes.values)
            for name, tensor in given.tensors.items():
                mine = own.get(name.removeprefix("decoder."))
                if not name.startswith("decoder.head.") or mine is None:
                    continue
                if mine.shape == tensor.shape:
                    mine.data.copy_(tensor)
                elif mine[count:].shape == tensor.shape:
                    mine.data[count:].copy_(tensor)
        return loaded

    def outputs(self, image: Tensor) -> Tensor:
        """Compute ``batch class+10 rows columns``."""
        return fit(self.decoder(self.encode(image)), image.shape[2:])

    def forward(self, image: Tensor) -> Tensor:
        """Compute ``batch class rows columns`` from ``batch channel rows columns``."""
        return self.outputs(image)[:, : len(self.classes.values)]

    def locate(self, image: Tensor) -> Tensor:
        """Compute logits of background and boxes, ``batch 10 rows columns``."""
        return self.outputs(image)[:, len(self.classes.values) :].float()

    def phases(self) -> tuple[Phase, ...]:
        """Train everything on two streams: labelled patches, which make the epoch, and views of all studies."""
        batch = self.options.batch_size
        feeds = {
            "labelled": Feed(self.views, batch, self.needs.unit),
            "studies": Feed(self.view, batch, Unit.STUDY, group=lambda records: self.items),
        }
        return (Phase("finetune", self.step, {"main": [self]}, feeds),)

    def view(self, item: HeartImage, rng: Generator) -> Positions:
        """View a slice with its boxes, turned and zoomed unless it is only looked at."""
        if self.seen is None:
            raise RuntimeError("a restored task has no studies")
        views = self.seen if self.training else replace(self.seen, move=None)
        return views(item, rng)

    def step(self, batch: Any) -> Iterator[Update]:
        """Learn classes from the labelled patches and positions from all images."""
        labelled: Patch = batch["labelled"]
        studies: Positions = batch["studies"]
        classes = dice_cross_entropy(self(labelled.image), labelled.truth, batch=True)
        places = F.cross_entropy(self.locate(studies.image), studies.boxes)
        yield Update(
            classes + self.options.position_weight * places,
            shows={"classes": classes.detach(), "positions": places.detach()},
            clip=self.options.clip,
        )

    def score(self, batch: Any) -> dict[str, Tensor]:
        """Count Dice of the classes on validation subjects, and of the boxes on the studies that are learnt from."""
        studies: Positions = batch["studies"]
        found = self.locate(studies.image).argmax(1)
        scores = super().score(batch["labelled"])
        return {**scores, "dice of positions": box_dice(found, studies.boxes, BOXES)}

    def preview(self, batch: Any) -> dict[str, Tensor]:
        """Show image, truth and prediction of the classes, then image and boxes of the studies."""
        studies: Positions = batch["studies"]
        found = self.locate(studies.image).argmax(1)
        return {
            **super().preview(batch["labelled"]),
            "study": coloured(unit_range(studies.image), studies.boxes),
            "positions": coloured(unit_range(studies.image), found),
        }
