"""C-Rend: points that a segmenter is unsure of are said anew, and pulled towards sure ones (Li et al., MICCAI 2020).

NOT self-supervised: it learns from masks alone.  A U-Net whose way up ends at a quarter of the resolution gives coarse
logits c.  A small head sees, at a point, c and two fine maps (the decoded one, and that of the stem) and says the class
there.  Of the unsure points U (three quarters where c's two best classes are closest, the rest anywhere):

    L = CE(up4(c), y) + CE(head(U), y(U)) + w L_contrast,      w = 0.2 after 13 of 150 epochs, 0 before

    L_contrast = mean over classes k of  mean_{a in H_k} [ 1 - (log(P / M) + 2) / 4 ]
                 P = sum_{b in L_k} exp cos(a, b),   M = sum_{b in H_other} exp cos(a, b)

H_k are points of class k with p_k >= 0.9, L_k those with 0.3 <= p_k <= 0.8, of c; their features are softmax c and both
fine maps.  Prediction enlarges c twice by two, each time with the most uncertain voxels said anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, NamedTuple, cast

import torch
import torch.nn.functional as F
from monai.inferers.utils import sliding_window_inference
from torch import Generator, Tensor, nn

from unlabeled.data.intensity import IntensityRule
from unlabeled.data.labels import Labels, find_labels
from unlabeled.data.sampling import draw_labelled_start, patch_size
from unlabeled.data.scan import Unit
from unlabeled.data.store import Record
from unlabeled.losses.points import point_contrast
from unlabeled.losses.segmentation import dice_of_classes
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
from unlabeled.nn.asymmetric import QuarterDecoder
from unlabeled.nn.encoders import Encoder
from unlabeled.nn.points import PointHead, cell_centres, draw_points, enlarge, read_points, render
from unlabeled.nn.schedules import Schedule, constant
from unlabeled.options import Count, NonNegative, Positive, Probability
from unlabeled.transforms.overlay import in_range


@dataclass(frozen=True, kw_only=True)
class Options(SharedOptions):
    """Defaults of the official code of the journal's extension, without its unlabelled part, unless named otherwise.

    Parameters
    ----------
    epochs
        Passes over the scans.
    batch_size
        Patches a step.
    encoder
        Network; asym-unet is the published one.
    patch_size
        Edge lengths of a patch [voxel]; pictures and slices take the first two.
    labels
        Values in the masks that are classes; without it, all that the masks hold.
    foreground
        Share of patches that are asked to hold a labelled voxel, every class alike (ours, as in fine-tuning; the official
        patches hold nearly a whole scan).
    rendering
        Whether points are said anew; without it, the coarse logits are all there is.
    contrast
        Whether points are contrasted.
    points
        Points of a patch that are said anew in training; without it, a sixteenth of the product of the patch's first and
        last edges.
    oversample
        Candidates for each of these.
    unsure_share
        Share of these that the logits are least sure of, among the candidates.
    rendered
        Voxels that each round of prediction says anew.
    contrast_weight
        Of the contrast in the loss.
    contrast_after
        Share of the training without it.
    contrast_points
        Points of each class, sure and unsure ones; with fewer the contrast is left out.
    most_points
        So many instead where every class has more.
    sure
        Least probability of a sure point.
    unsure
        Bounds of the probability of an unsure one.
    fidelity
        Mend the quirks of the official code, or reproduce them.
    """

    epochs: Count = 150
    batch_size: Count = 2
    lr: Positive = 1e-4
    encoder: str = "asym-unet"
    patch_size: tuple[Count, ...] = (128, 192, 192)
    labels: tuple[Count, ...] = ()
    foreground: Probability = 1 / 3
    rendering: bool = True
    contrast: bool = True
    points: Count | None = None
    oversample: Count = 3
    unsure_share: Probability = 0.75
    rendered: Count = 70_000
    contrast_weight: NonNegative = 0.2
    contrast_after: Probability = 13 / 150
    contrast_points: Count = 256
    most_points: Count = 1024
    sure: Probability = 0.9
    unsure: tuple[Probability, Probability] = (0.3, 0.8)
    fidelity: Literal["clean", "official"] = "clean"


class Turn(NamedTuple):
    """A scan, and the share of the training that is over."""

    record: Record
    over: float = 1.0


class Sample(NamedTuple):
    """A labelled patch, ``*batch ...``."""

    image: Tensor  # channel *space
    truth: Tensor  # *space: class of every voxel
    over: Tensor  # share of the training that is over


class ContrastiveRendering(Method):
    """A coarse segmenter, and a head that says single points anew."""

    needs: ClassVar[Needs] = Needs(unit=Unit.VOLUME, dims=(2, 3), metadata=("mask",))
    options_class: ClassVar[type[SharedOptions]] = Options
    monitor: ClassVar[Monitor] = Monitor("dice", "higher", chance="dice_everything")
    keeps = "best"
    makes: ClassVar[str] = "a mask, with the classes that it learnt from"
    quirks: ClassVar[Mapping[str, str]] = {
        "uncertainty": "official: classes are ranked voxel by voxel before points are read, so that a point between two "
        "sure voxels of unlike classes looks sure; clean: after",
        "grid": "official: coarse logits are enlarged with corner voxels in place, while points lie between the faces of "
        "the image, half a voxel off; clean: both by faces",
        "points of the last class": "official: any labelled voxel counts as one of the second class and those after it, "
        "the ovary around its follicles; clean: those of the class",
    }

    options: Options

    def __init__(self, options: Options, encoder: Encoder) -> None:
        super().__init__(options, encoder)
        self.patch = patch_for(encoder, options.patch_size)
        self.official = options.fidelity == "official"
        values = (0, *(options.labels or (1,)))
        self.classes = Labels(values, tuple(map(str, values)))
        self.decoder = QuarterDecoder(encoder, classes=len(values))
        self.fine_level = self.decoder.level - 1  # the stem's map, at half the resolution
        features = self.decoder.width
        if self.fine_level >= 0:
            features += encoder.channels[self.fine_level]
        self.head = PointHead(len(values), features)
        first, *_, last = self.patch
        self.points = options.points or max(1, first * last // 16)

    @classmethod
    def intensity(cls, options: SharedOptions) -> IntensityRule:
        """Subtract each scan's mean and divide by its deviation."""
        return IntensityRule(kind="standard")

    @classmethod
    def suit(cls, options: Options, records: Sequence[Record]) -> Options:
        """Take as classes what the masks hold, unless the person said which."""
        return (
            options if options.labels else replace(options, labels=find_labels(records).values[1:])
        )

    def notes(self) -> tuple[str, ...]:
        """Say what this method is."""
        return (
            "contrastive-rendering is no self-supervised method: it learnt from masks, so scans of a test must not be "
            "among these",
        )

    def phases(self) -> tuple[Phase, ...]:
        """Train all parts in one stage; samples know how much of it is over."""
        feed = Feed(
            self.views,
            self.options.batch_size,
            self.needs.unit,
            group=lambda records: [Turn(record) for record in records],
            pace=lambda turn, over: turn._replace(over=over),
        )
        modules = [self.encoder, self.decoder, *([self.head] if self.options.rendering else [])]
        return (Phase("pretrain", self.step, {"main": modules}, {"scans": feed}),)

    def views(self, record: Turn, rng: Generator) -> Sample:  # type: ignore[override]
        """Cut a labelled patch."""
        scan, over = record
        size = patch_size(scan, self.patch)
        start = draw_labelled_start(scan, size, rng, self.options.foreground)
        image = scan.patch(start, size).reshape(scan.channels, *self.patch)
        mask = scan.mask_patch(start, size).reshape(self.patch)
        return Sample(image, self.classes.encode(mask), torch.tensor(over))

    def coarse(self, image: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Compute coarse logits, and the fine maps that the head sees, all ``batch channel *space``."""
        maps = self.encoder(image)
        decoded, logits = self.decoder(maps)
        fine = [decoded, *([maps[self.fine_level]] if self.fine_level >= 0 else [])]
        return logits.float(), fine

    def step(self, batch: Sample) -> Iterator[Update]:
        """Compare the enlarged logits and single points with the masks, and contrast points."""
        coarse, fine = self.coarse(batch.image)
        space = batch.truth.shape[1:]
        terms = {
            "coarse": F.cross_entropy(enlarge(coarse, space, corners=self.official), batch.truth)
        }
        if self.options.rendering:
            terms["points"] = self.rendering(coarse, fine, batch.truth)
        loss = torch.stack(list(terms.values())).sum()
        if self.options.contrast and float(batch.over.mean()) >= self.options.contrast_after:
            terms["contrast"] = self.contrast(coarse, fine, batch.truth)
            loss = loss + self.options.contrast_weight * terms["contrast"]
        yield Update(loss, shows=terms)

    def rendering(self, coarse: Tensor, fine: Sequence[Tensor], truth: Tensor) -> Tensor:
        """Compute the cross entropy of unsure points [nat]."""
        own = self.options
        points = draw_points(
            coarse,
            self.points,
            oversample=own.oversample,
            share=own.unsure_share,
            ranked="before" if self.official else "after",
        )
        said = self.head(coarse, fine, points).float()
        return F.cross_entropy(
            said, read_points(truth[:, None].float(), points, nearest=True)[:, 0].long()
        )

    def contrast(self, coarse: Tensor, fine: Sequence[Tensor], truth: Tensor) -> Tensor:
        """Contrast points of every image by itself; the mean, 0 for images where a class has too few."""
        small = F.interpolate(truth[:, None].float(), coarse.shape[2:], mode="nearest")[:, 0].long()
        each = [
            self._contrast_one(coarse[n : n + 1], [m[n : n + 1] for m in fine], small[n].flatten())
            for n in range(len(coarse))
        ]
        return torch.stack(each).mean()

    def _contrast_one(self, coarse: Tensor, fine: Sequence[Tensor], truth: Tensor) -> Tensor:
        sure, unsure = self.sets(coarse[0].flatten(1).softmax(0), truth)
        smallest = min(map(len, (*sure, *unsure)))
        if smallest < self.options.contrast_points:
            return coarse.new_zeros(())
        most = self.options.most_points
        count = most if smallest > most else self.options.contrast_points
        high, low = (
            [self._features(coarse, fine, _some(one, count)) for one in sets]
            for sets in (sure, unsure)
        )
        terms = []
        for own, (anchors, near) in enumerate(zip(high, low, strict=True)):
            rest = [*high[:own], *high[own + 1 :]]
            terms.append(point_contrast(anchors, near, torch.cat(rest), others=len(rest)))
        return torch.stack(terms).mean()

    def sets(self, likely: Tensor, truth: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Number the sure and the unsure voxels of each contrasted class.

        Parameters
        ----------
        likely
            Probabilities ``class voxel``.
        truth
            Class of each voxel.

        Returns
        -------
        tuple of lists
            Indices of voxels, one tensor a class: of all but the background, or with a single other class of both.
        """
        own, total = self.options, len(likely)
        low, high = own.unsure
        sure, unsure = [], []
        for one in range(1 if total > 2 else 0, total):
            there = truth != 0 if self.official and one > 1 else truth == one
            share = likely[one].detach()
            sure.append((there & (share >= own.sure)).nonzero()[:, 0])
            unsure.append((there & (share >= low) & (share <= high)).nonzero()[:, 0])
        return sure, unsure

    def _features(self, coarse: Tensor, fine: Sequence[Tensor], index: Tensor) -> Tensor:
        """Give the features of voxels of one coarse map, ``voxel feature``."""
        points = cell_centres(index[None], coarse.shape[2:])
        seen = [read_points(each.float(), points) for each in (coarse.softmax(1), *fine)]
        return torch.cat(seen, 1)[0].T

    def optimiser(
        self, name: str, modules: Iterable[nn.Module]
    ) -> tuple[torch.optim.Optimizer, Schedule]:
        """Make Adam with a constant rate."""
        return torch.optim.Adam(parameters(modules), lr=self.options.lr), constant

    def segment(self, image: Tensor) -> Tensor:
        """Compute logits of every voxel, ``batch class *space``: rendered, or only enlarged."""
        coarse, fine = self.coarse(image)
        space = image.shape[2:]
        if not self.options.rendering:
            return enlarge(coarse, space, corners=self.official)
        points = self.options.rendered
        return render(coarse, fine, self.head, space, points=points, corners=self.official)

    def score(self, batch: Sample) -> dict[str, Tensor]:
        """Measure Dice of unseen patches, mean over classes that are there, and where voxels are said anew.

        ``dice_coarse`` is that of the enlarged coarse logits, ``dice_everything`` that of naming every voxel the
        commonest labelled class; ``border`` is the share of unsure points within two voxels of a border of the masks,
        ``border_everywhere`` that of all voxels.
        """
        coarse, _ = self.coarse(batch.image)
        whole = enlarge(coarse, batch.truth.shape[1:], corners=self.official)
        near = near_border(batch.truth)
        points = draw_points(coarse, self.points, share=1.0)
        labelled = batch.truth[batch.truth > 0]
        commonest = labelled.mode().values if len(labelled) else batch.truth.new_tensor(1)
        return {
            "dice": dice_of_classes(self.segment(batch.image).argmax(1), batch.truth),
            "dice_coarse": dice_of_classes(whole.argmax(1), batch.truth),
            "dice_everything": dice_of_classes(
                torch.full_like(batch.truth, int(commonest)), batch.truth
            ),
            "border": read_points(near[:, None].float(), points, nearest=True).mean(),
            "border_everywhere": near.float().mean(),
        }

    def preview(self, batch: Sample) -> dict[str, Tensor]:
        """Show the patch, its mask, both predictions, and the voxels of which the coarse one is least sure."""
        coarse, _ = self.coarse(batch.image)
        whole = enlarge(coarse, batch.truth.shape[1:], corners=self.official)
        margin = whole.softmax(1).topk(2, dim=1).values
        most = max(1, len(self.classes.values) - 1)

        def shown(classes: Tensor) -> Tensor:
            return classes[:, None].float() / most

        return {
            "image": in_range(batch.image[:, :1]),
            "mask": shown(batch.truth),
            "coarse": shown(whole.argmax(1)),
            "unsure": 1 - (margin[:, :1] - margin[:, 1:]).float(),
            "rendered": shown(self.segment(batch.image).argmax(1)),
        }

    def product(self, record: Record) -> Product:
        """Segment a whole scan by overlapping patches; a flat network takes a volume slice by slice."""
        device = next(self.parameters()).device
        image = record.patch((0,) * record.dims, record.space)[None].to(device)
        flat = record.dims > self.encoder.dims
        slices = image.unbind(-1) if flat else [image]
        found = torch.stack([self._whole(one) for one in slices], -1)
        found = found if flat else found[..., 0]
        mask = self.classes.decode(found.cpu().numpy())
        return Product(masks={"mask": torch.from_numpy(mask)})

    def _whole(self, image: Tensor) -> Tensor:
        """Say the class of every voxel of one image ``1 channel *space``."""
        size = self.options.batch_size
        logits = sliding_window_inference(image, self.patch, size, self.segment, 0.5)
        classes: Tensor = cast(Tensor, logits).argmax(1)[0]
        return classes

    def carries(self) -> dict[str, nn.Module]:
        """Carry the encoder."""
        return {"encoder": self.encoder}


def _some(index: Tensor, count: int) -> Tensor:
    """Draw so many of some voxels, each at most once."""
    return index[torch.randperm(len(index), device=index.device)[:count]]


def near_border(truth: Tensor, reach: int = 2) -> Tensor:
    """Mark voxels that have another class within `reach` voxels along the axes or diagonals; ``batch *space``."""
    pool = F.max_pool2d if truth.ndim == 3 else F.max_pool3d
    values = truth[:, None].float()
    edge = 2 * reach + 1
    most, least = (pool(sign * values, edge, 1, reach) for sign in (1, -1))
    return (most != -least)[:, 0]
