"""Anatomical position prediction: find nine places that other planes of a study define (Bai et al., MICCAI 2019).

A study of cardiac MR holds a stack of short-axis slices and planes along the left ventricle, the 2-chamber and the
4-chamber view, and every file says where its plane lies.  The planes cut an image in two lines, which cross in the left
ventricle.  Nine boxes are set along them, one at the crossing and two to either side along each line: to the anterior and
the inferior wall, to the right ventricle and to the lateral wall.  A U-Net names the box of every pixel, y in 0 to 9,
from the image alone; the loss is the cross entropy, ``-1/N sum_p log softmax(z_p)[y_p]``.  All of the U-Net but its last
convolution is carried over to a segmentation.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, cast

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from unlabeled.data.hearts import HeartImage, HeartViews, View, view_named
from unlabeled.data.intensity import IntensityRule
from unlabeled.data.scan import Source, Unit
from unlabeled.data.slices import slice_axis
from unlabeled.data.store import Record
from unlabeled.errors import OptionError, ScanError
from unlabeled.losses.segmentation import box_dice, dice_cross_entropy
from unlabeled.methods._base import (
    Feed,
    Method,
    Monitor,
    Needs,
    Phase,
    Product,
    SharedOptions,
    Update,
    parameters,
    patch_for,
)
from unlabeled.nn.decoders import build_decoder, fit
from unlabeled.nn.encoders import Encoder
from unlabeled.nn.schedules import Schedule, constant
from unlabeled.options import Count, NonNegative, Positive, Probability
from unlabeled.transforms.overlay import upright
from unlabeled.transforms.positions import (
    BOXES,
    NineBoxes,
    Positions,
    PositionViews,
    TurnZoom,
    coloured,
    read_plane,
    ruled,
)

BATCH = 16  # slices at once, of a whole scan


@dataclass(frozen=True, kw_only=True)
class Options(SharedOptions):
    """The paper's code was not published: numbers are those of its first author's code for segmentation, or ours.

    Parameters
    ----------
    epochs
        Passes over the scans, at most (ours).
    steps
        Stop after so many optimiser rounds (author's segmentation code).
    batch_size
        Slices a step (author's segmentation code: two volumes, of about ten slices).
    samples_per_scan
        Slices that each scan gives an epoch (ours: about as many as a stack has).
    lr
        Learning rate, of Adam (author's segmentation code).
    encoder
        Contracting half of the U-Net (paper: a U-Net, of a size that is unconfirmed).
    patch_size
        Edges of the middle of a slice that is seen [pixel] (author's segmentation code).
    view
        Which images are learnt from (paper: short-axis images for one network, long-axis ones for another).
    box_size
        Edge of a box [mm] (ours).
    box_spacing
        From one box of a line to the next [mm] (ours).
    middle
        Share of a short-axis stack's slices, in its middle, that are learnt from; towards its ends the boxes lie outside
        the heart (ours).
    lone_plane
        A study with only one of both long-axis planes: leave it out, or set a plane at right angles to it and to the
        short axis, through the point of their line that is nearest to the middle of the stack (ours).
    landmarks
        CSV file with a point in the left and one in the right ventricle of a study, which then stand for the long-axis
        planes; columns study, lv_x, lv_y, lv_z, rv_x, rv_y, rv_z [mm, RAS+] (ours).
    rotation
        Deviation of the angle by which a view is turned [degree]; at most three times that (author's segmentation code).
    zoom
        Deviation of a view's magnification from 1; at most three times that (author's segmentation code).
    loss
        Cross entropy over all pixels, or with soft Dice of the boxes added, for the background is 99 % of them (paper:
        unconfirmed).
    """

    epochs: Count = 100
    steps: Count | None = 50_000
    batch_size: Count = 20
    samples_per_scan: Count = 10
    lr: Positive = 1e-3
    encoder: str = "unet"
    patch_size: tuple[Count, ...] = (192, 192)
    view: View = "short-axis"
    box_size: Positive = 10.0
    box_spacing: Positive = 18.0
    middle: Probability = 1.0
    lone_plane: Literal["refuse", "perpendicular"] = "refuse"
    landmarks: str = ""
    rotation: NonNegative = 10.0
    zoom: NonNegative = 0.2
    loss: Literal["cross-entropy", "dice-cross-entropy"] = "cross-entropy"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.zoom >= 1 / 3:
            raise OptionError(
                f"--zoom is {self.zoom:g}: three times that leaves nothing of a view",
                "Give --zoom below 0.33.",
            )

    @property
    def sorting(self) -> HeartViews:
        """How the images of a study are sorted."""
        return HeartViews(self.view, self.middle, self.lone_plane, self.landmarks)


class AnatomicalPosition(Method):
    """A U-Net finds nine boxes that the planes of a study define in each other's images."""

    needs: ClassVar[Needs] = Needs(
        unit=Unit.STUDY, dims=(2,), metadata=("spacing", "affine"), scans_per_subject=2
    )
    options_class: ClassVar[type[SharedOptions]] = Options
    monitor: ClassVar[Monitor] = Monitor("dice", "higher", chance="chance")
    keeps = "best"
    makes: ClassVar[str] = "where in a heart its images show the nine boxes, and the middle one"

    options: Options

    def __init__(self, options: Options, encoder: Encoder) -> None:
        super().__init__(options, encoder)
        rows, columns = patch_for(encoder, options.patch_size)
        self.patch = rows, columns
        encoder.check(self.patch)
        self.decoder = build_decoder(encoder, out_channels=1 + BOXES)
        boxes = NineBoxes(options.box_size, options.box_spacing)
        move = TurnZoom(options.rotation, options.zoom)
        self.still = PositionViews(boxes, None, self.patch)
        self.moved = PositionViews(boxes, move, self.patch)

    @classmethod
    def intensity(cls, options: SharedOptions) -> IntensityRule:
        """Clip to the 1st and the 99th percentile of a scan and scale to [0, 1], as the author's segmentation code."""
        return IntensityRule(percentiles=(1.0, 99.0))

    @classmethod
    def refuse(cls, options: SharedOptions, records: Sequence[Record]) -> dict[str, ScanError]:
        """Refuse studies whose planes are missing or parallel."""
        return cast(Options, options).sorting.refuse(records)

    @classmethod
    def role(cls, source: Source) -> str:
        """Tell views apart by name."""
        return view_named(source.name)

    def phases(self) -> tuple[Phase, ...]:
        """Learn from the images of the wanted view; the other planes of a study only say where they cut them."""
        feed = Feed(
            self.views, self.options.batch_size, Unit.STUDY, group=self.options.sorting.images
        )
        return (Phase("pretrain", self.step, {"main": [self]}, {"studies": feed}),)

    def views(self, record: HeartImage, rng: Generator) -> Positions:  # type: ignore[override]
        """Draw a slice with its boxes; in training, turn and zoom both alike.  Never a flip: sides would be wrong."""
        return (self.moved if self.training else self.still)(record, rng)

    def locate(self, image: Tensor) -> Tensor:
        """Compute logits of background and boxes, ``batch 10 rows columns``, from ``batch channel rows columns``."""
        return fit(self.decoder(self.encoder(image)), image.shape[2:]).float()

    def step(self, batch: Positions) -> Iterator[Update]:
        """Name the box of every pixel."""
        logits = self.locate(batch.image)
        if self.options.loss == "cross-entropy":
            yield Update(F.cross_entropy(logits, batch.boxes))
        else:
            yield Update(dice_cross_entropy(logits, batch.boxes, batch=True))

    def optimiser(
        self, name: str, modules: Iterable[nn.Module]
    ) -> tuple[torch.optim.Optimizer, Schedule]:
        """Make Adam with a constant rate."""
        return torch.optim.Adam(parameters(modules), lr=self.options.lr), constant

    def score(self, batch: Positions) -> dict[str, Tensor]:
        """Measure the mean Dice of the boxes that are there; 0 where everything is called background."""
        dice = box_dice(self.locate(batch.image).argmax(1), batch.boxes, BOXES)
        return {"dice": dice, "chance": torch.zeros_like(dice)}

    def preview(self, batch: Positions) -> dict[str, Tensor]:
        """Show the image with both lines, the boxes as the planes define them, and as the network finds them."""
        found = self.locate(batch.image).argmax(1)
        return {
            "lines": upright(ruled(batch.image, batch.lines)),
            "defined": upright(coloured(batch.image, batch.boxes)),
            "found": upright(coloured(batch.image, found)),
        }

    def product(self, record: Record) -> Product:
        """Find the boxes in every slice, from the image alone: how many, and the middle of the first over all slices."""
        device = next(self.parameters()).device
        across = slice_axis(record)
        places = range(record.space[across]) if record.dims == 3 else range(1)
        read = [read_plane(record, across, place, self.patch) for place in places]
        images = torch.stack([image for image, _ in read])
        parts = [images[begin : begin + BATCH] for begin in range(0, len(images), BATCH)]
        found = torch.cat([self.locate(part.to(device)).argmax(1).cpu() for part in parts])
        shown = coloured(images[len(read) // 2, None], found[len(read) // 2, None])
        where = (found == 1).nonzero().double()
        points = {}
        if len(where):
            place, row, column = where.mean(0)
            first, second = read[0][1]
            point = [row + first, column + second]
            if record.dims == 3:
                point.insert(across, place)
            points["left ventricle"] = torch.stack(point)
        seen = [len(each.unique()) - int((each == 0).any()) for each in found]
        return Product(
            pictures={"positions": upright(shown)[0]},
            points=points,
            values={"slices": float(len(seen)), "boxes": sum(seen) / len(seen)},
        )

    def carries(self) -> dict[str, nn.Module]:
        """Carry the whole U-Net; a segmenter replaces the last convolution alone."""
        return {"encoder": self.encoder, "decoder": self.decoder}
