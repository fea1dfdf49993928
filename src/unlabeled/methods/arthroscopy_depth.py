"""Depth as a regulariser: segment single frames with a network that also learns disparity (Liu et al., MICCAI 2020).

From the left picture of a stereo pair alone, one network predicts a disparity d for each eye, as a fraction of the
width W; sampled at x - d_l W, the right picture becomes an estimate of the left one, and the reverse.  At each of four
scales s:

    photometric:  alpha mean (1 - SSIM) / 2 + (1 - alpha) mean |estimate - image|      both eyes
    smoothness:   (mean |dx d exp(-|dx I|)| + mean |dy d exp(-|dy I|)|) / 2^s           both eyes
    consistency:  mean |d_l - d_r(x - d_l W)| + mean |d_r - d_l(x + d_r W)|
    L_depth = sum_s photometric + smoothness_weight smoothness + consistency_weight consistency

First it learns L_depth, from pairs of routine objects where there are some; then L_seg + depth_weight L_depth, with the
cross entropy L_seg of labelled frames.  The losses are those of Godard et al. (CVPR 2017).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from unlabeled.data.intensity import IntensityRule
from unlabeled.data.scan import Scan, Unit
from unlabeled.data.splits import given_split
from unlabeled.data.store import Record
from unlabeled.errors import DataError, OptionError
from unlabeled.losses.photometric import edge_aware_smoothness, photometric_error
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
)
from unlabeled.nn.decoders import build_decoder
from unlabeled.nn.disparity import DisparityHeads, image_pyramid, shift_columns
from unlabeled.nn.encoders import Encoder
from unlabeled.nn.schedules import Schedule, stepping
from unlabeled.options import Between, Count, NonNegative, Positive, Probability
from unlabeled.transforms.stereo import VIEWS, KeepViews, SharedColour, StereoFlip, flip_views

SCALES = 4
FEATURES = 16  # of the decoder, from which both heads read (ours)


@dataclass(frozen=True, kw_only=True)
class Options(SharedOptions):
    """Defaults of Godard et al. for depth; the paper's own values are unconfirmed, and there is no published code.

    Parameters
    ----------
    patch_size
        Rows and columns that frames are resized to [pixel] (unconfirmed).
    batch_size
        Pairs a step, and as many labelled frames beside them (Godard et al.).
    epochs
        Half of them for depth alone, half for both tasks (Godard et al.: 50 for depth; ours for both).
    lr
        Learning rate of Adam (Godard et al.); halved after 3/5 and 4/5 of the first stage.
    alpha
        Share of the structural distance in the photometric error (Godard et al.).
    smoothness_weight, consistency_weight
        Of these terms beside the photometric error (Godard et al.).
    depth_weight
        Of the depth loss beside segmentation (ours); 0 segments without depth.
    most
        Largest disparity, as a fraction of the width (Godard et al.); close views may need more.
    depth_first
        Whether depth is learnt before both tasks are (the paper).
    objects
        Study of the pairs that show routine objects: the first stage learns from them alone.  Without any, it learns from
        all pairs (ours).
    classes
        Classes of the masks, background included; without it, counted.
    p_flip
        Probability of mirroring, which exchanges the pictures of a pair (Godard et al.).
    p_colour
        Probability of changing gamma, brightness and colours of both pictures alike (Godard et al.).
    """

    patch_size: tuple[Count, ...] = (256, 256)
    batch_size: Count = 8
    epochs: Count = 100
    lr: Positive = 1e-4
    alpha: Probability = 0.85
    smoothness_weight: NonNegative = 0.1
    consistency_weight: NonNegative = 1.0
    depth_weight: NonNegative = 1.0
    most: Annotated[float, Between(1e-6, 1)] = 0.3
    depth_first: bool = True
    objects: str = "objects"
    classes: Annotated[int, Between(2)] | None = None
    p_flip: Probability = 0.5
    p_colour: Probability = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        least = 3 * 2 ** (SCALES - 1)  # the coarsest scale holds one window of SSIM
        if len(self.patch_size) < 2 or min(self.patch_size[:2]) < least:
            edges = " ".join(map(str, self.patch_size))
            raise OptionError(
                f"--patch-size {edges} is too small for four scales",
                f"Give --patch-size {least} {least} or more.",
            )


class Pair(NamedTuple):
    """Left and right picture of a scene, ``*batch 3 rows columns`` in [0, 1]."""

    left: Tensor
    right: Tensor


class Labelled(NamedTuple):
    """A frame, ``*batch 3 rows columns`` in [0, 1], and its classes, ``*batch rows columns``."""

    frame: Tensor
    mask: Tensor


class ArthroscopyDepth(Method):
    """One network that sees a single frame, with a head for disparities and one for classes."""

    needs: ClassVar[Needs] = Needs(unit=Unit.FRAME, dims=(2,), some_channels=6)
    options_class: ClassVar[type[SharedOptions]] = Options
    monitor: ClassVar[Monitor] = Monitor("error", "lower", chance="unmoved")
    makes: ClassVar[str] = "disparities of single frames"
    in_channels: ClassVar[int | None] = 3  # the left picture alone

    options: Options

    def __init__(self, options: Options, encoder: Encoder) -> None:
        super().__init__(options, encoder)
        rows, columns = options.patch_size[:2]
        self.size = (rows, columns)
        self.decoder = build_decoder(encoder, out_channels=FEATURES)
        self.disparity = DisparityHeads(FEATURES, scales=SCALES, most=options.most)
        self.segment = nn.Conv2d(FEATURES, options.classes, 1) if options.classes else None
        self.flip, self.colour = StereoFlip(options.p_flip), SharedColour(options.p_colour)

    @classmethod
    def intensity(cls, options: SharedOptions) -> IntensityRule:
        """Scale frames from darkest to brightest: for tasks, close to the levels that are learnt from here."""
        return IntensityRule(percentiles=(0.0, 100.0))

    @classmethod
    def preparation(cls, options: Any) -> Callable[[Scan], Scan]:
        """Keep frames and pairs in the size that the networks see."""
        rows, columns = options.patch_size[:2]
        return KeepViews(rows, columns)

    @classmethod
    def needs_with(cls, options: Any) -> Needs:
        """Leave it to `suit` to ask for pairs: options do without."""
        return replace(cls.needs, some_channels=1)

    @classmethod
    def suit(cls, options: Options, records: Sequence[Record]) -> Options:
        """Count the classes; refuse data without pairs where depth is learnt, and without masks where it is not."""
        parts = [replace(each.source, split=each.source.split or "train") for each in records]
        given_split(parts)  # refuses a patient in two of them
        learnt = [each for each, own in zip(records, parts, strict=True) if own.split == "train"]
        labels = [max(each.labelled_voxels, default=0) for each in learnt if has_mask(each)]
        joint = options.depth_weight > 0 and bool(labels)
        if (options.depth_first or joint) and not any(map(is_pair, learnt)):
            raise DataError(
                "no scan to learn from has a right view, and depth comes of stereo pairs alone, not of single frames",
                "Name both pictures of a pair in the manifest's column image: left.png;right.png; or give "
                "--no-depth-first --depth-weight 0 to segment without depth.",
            )
        if not labels and not options.depth_first:
            raise DataError(
                "no scan to learn from has a mask, and --no-depth-first leaves nothing to learn",
                "Name masks in the manifest's column mask, or leave --no-depth-first out.",
            )
        if not labels and options.classes is not None:
            raise OptionError(
                f"--classes is {options.classes}, and no scan to learn from has a mask",
                "Leave --classes out, or name masks in the manifest's column mask.",
            )
        if not labels:
            return options
        found = max(labels) + 1
        if found < 2:
            raise DataError("all masks are empty", "Give masks that name at least one structure.")
        if options.classes is not None and options.classes < found:
            raise OptionError(
                f"--classes is {options.classes}, and the masks have {found}",
                "Leave --classes out.",
            )
        return replace(options, classes=options.classes or found)

    def phases(self) -> tuple[Phase, ...]:
        """First depth alone, then segmentation with depth beside it; the second where there are masks."""
        own, unit = self.options, self.needs.unit
        depth: list[nn.Module] = [self.encoder, self.decoder, self.disparity]
        pairs = Feed(self.views, own.batch_size, unit, is_pair)
        stages: list[Phase] = []
        if own.depth_first:
            objects = replace(pairs, group=self.of_objects)
            stages.append(Phase("depth", self.step, {"depth": depth}, {"pairs": objects}))
        if self.segment is not None:
            feeds = {"labelled": Feed(self.labelled, own.batch_size, unit, has_mask, scored=False)}
            trains: list[nn.Module] = [self.encoder, self.decoder, self.segment]
            if own.depth_weight:
                feeds["pairs"] = replace(pairs, group=self.of_patients, scored=False)
                trains.append(self.disparity)
            joint = Phase(
                "joint",
                self.segment_with_depth,
                {"joint": trains},
                feeds,
                score=self.score_joint,
                preview=self.preview_joint,
                monitor=Monitor("dice", "higher"),
            )
            stages.append(joint)
        return tuple(stages)

    def of_objects(self, records: Sequence[Record]) -> list[Record]:
        """Take the pairs of routine objects; all, where there are none."""
        return [r for r in records if visit(r) == self.options.objects] or list(records)

    def of_patients(self, records: Sequence[Record]) -> list[Record]:
        """Take the pairs of patients; all, where there are none."""
        return [r for r in records if visit(r) != self.options.objects] or list(records)

    def views(self, record: Record, rng: Generator) -> Pair:
        """Mirror a pair, which exchanges its pictures, and change the colours of both alike."""
        left, right = self.colour(self.flip(read_views(record), rng), rng).chunk(2)
        return Pair(left, right)

    def labelled(self, record: Record, rng: Generator) -> Labelled:
        """Mirror a frame with its mask, and change its colours."""
        frame, mask = read_views(record)[:3], record.mask_patch((0, 0), record.space)
        for axis, edge in enumerate(self.size):
            at = (torch.arange(edge) * 2 + 1) * mask.shape[axis] // (2 * edge)  # nearest pixel
            mask = mask.index_select(axis, at)
        if self.flip.draw(rng):
            frame, mask = flip_views(frame), mask.flip(-1)
        return Labelled(self.colour(frame, rng), mask)

    def decode(self, frame: Tensor) -> Tensor:
        """Give the features that both heads read, ``batch channel rows columns``, from a single frame."""
        decoded: Tensor = self.decoder(self.encoder(frame), frame.shape[2:])
        return F.elu(decoded)

    def depth_loss(self, pair: Pair, disparities: Sequence[Tensor]) -> dict[str, Tensor]:
        """Sum each of the three terms over scales and eyes."""
        terms = dict.fromkeys(("photometric", "smoothness", "consistency"), pair.left.new_zeros(()))
        pyramids = (image_pyramid(each, len(disparities)) for each in pair)
        for scale, (left, right, both) in enumerate(zip(*pyramids, disparities, strict=True)):
            eyes = both.chunk(2, dim=1)
            views = ((left, right), (right, left))
            for sign, own, other, (image, seen) in zip(
                (-1, 1), eyes, eyes[::-1], views, strict=True
            ):
                there = shift_columns(torch.cat([seen.float(), other], dim=1), sign * own)
                estimate, told = there[:, :3], there[:, 3:]
                terms["photometric"] = terms["photometric"] + photometric_error(
                    estimate, image, self.options.alpha
                )
                smooth = edge_aware_smoothness(own, image) / 2**scale
                terms["smoothness"] = terms["smoothness"] + smooth
                terms["consistency"] = terms["consistency"] + (own - told).abs().mean()
        return terms

    def weigh(self, terms: Mapping[str, Tensor]) -> Tensor:
        """Give L_depth of its terms."""
        own = self.options
        smooth = own.smoothness_weight * terms["smoothness"]
        return terms["photometric"] + smooth + own.consistency_weight * terms["consistency"]

    def step(self, batch: Pair) -> Iterator[Update]:
        """Let each picture of a pair be rebuilt from the other."""
        terms = self.depth_loss(batch, self.disparity(self.decode(batch.left)))
        yield Update(self.weigh(terms), "depth", terms)

    def segment_with_depth(self, batch: Any) -> Iterator[Update]:
        """Segment labelled frames, and learn depth from pairs; each batch passes by itself."""
        streams = _streams(batch)
        labelled, pair = streams["labelled"], streams.get("pairs")
        loss = F.cross_entropy(self.name_classes(labelled.frame), labelled.mask)
        shows = {"segmentation": loss}
        if pair is not None:
            terms = self.depth_loss(pair, self.disparity(self.decode(pair.left)))
            loss = loss + self.options.depth_weight * self.weigh(terms)
            shows |= terms
        yield Update(loss, "joint", shows)

    def name_classes(self, frame: Tensor) -> Tensor:
        """Give the logits of the classes, ``batch class rows columns``."""
        if self.segment is None:
            raise DataError("this run knew no masks", "Name them in the manifest's column mask.")
        logits: Tensor = self.segment(self.decode(frame))
        return logits.float()

    def optimiser(
        self, name: str, modules: Iterable[nn.Module]
    ) -> tuple[torch.optim.Optimizer, Schedule]:
        """Make Adam; its rate is halved twice in either stage."""
        made = torch.optim.Adam(parameters(modules), lr=self.options.lr, betas=(0.9, 0.999))
        return made, stepping((3, 4), 0.5, of=5)

    def score(self, batch: Pair) -> dict[str, Tensor]:
        """Measure the error of the left picture rebuilt from the right one, beside the right one as it is."""
        near = self.disparity(self.decode(batch.left))[0][:, :1]
        rebuilt = shift_columns(batch.right, -near)
        border = max(1, batch.left.shape[-1] // 8)
        inner = (..., slice(border, -border))
        return {
            "error": (rebuilt - batch.left)[inner].abs().mean(),
            "unmoved": (batch.right - batch.left)[inner].abs().mean(),
        }

    def score_joint(self, batch: Any) -> dict[str, Tensor]:
        """Measure the mean Dice of structures, and the error of pairs: of what is held out."""
        streams = _streams(batch)
        scores = self.score(streams["pairs"]) if "pairs" in streams else {}
        if "labelled" in streams:
            frame, mask = streams["labelled"]
            scores["dice"] = dice_of_classes(self.name_classes(frame).argmax(1), mask)
        return scores

    def preview(self, batch: Pair) -> dict[str, Tensor]:
        """Show both pictures, the left one rebuilt, its error, and the disparity."""
        near = self.disparity(self.decode(batch.left))[0][:, :1]
        rebuilt = shift_columns(batch.right, -near).clamp(0, 1)
        return {
            "left": batch.left,
            "right": batch.right,
            "left from right": rebuilt,
            "error": (rebuilt - batch.left).abs(),
            "disparity": near / self.options.most,
        }

    def preview_joint(self, batch: Any) -> dict[str, Tensor]:
        """Show a frame, its mask, the classes named, and the disparity; pairs where no frame with a mask is held out."""
        streams = _streams(batch)
        if "labelled" not in streams:
            return self.preview(streams["pairs"])
        frame, mask = streams["labelled"]
        logits = self.name_classes(frame)
        last = max(1, logits.shape[1] - 1)
        near = self.disparity(self.decode(frame))[0][:, :1]
        return {
            "frame": frame,
            "mask": (mask[:, None] / last).clamp(max=1),
            "named": logits.argmax(1, keepdim=True) / last,
            "disparity": near / self.options.most,
        }

    def product(self, record: Record) -> Product:
        """Draw the left disparity of a single frame, white where it is the most."""
        frame = read_views(record)[None, :3].to(next(self.parameters()).device)
        near = self.disparity(self.decode(frame))[0][0, :1]
        return Product(
            pictures={"disparity": near / self.options.most},
            values={"disparity": float(near.mean())},
        )

    def carries(self) -> dict[str, nn.Module]:
        """Carry encoder and decoder, which know shape, to segmentation."""
        return {"encoder": self.encoder, "decoder": self.decoder}


def visit(record: Record) -> str:
    """Give the study of a scan without its subject's name."""
    return record.study.removeprefix(f"{record.subject}/")


def is_pair(record: Record) -> bool:
    """Tell whether a right view is known."""
    return record.extras[VIEWS].shape[0] == 6


def has_mask(record: Record) -> bool:
    """Tell whether a frame is labelled."""
    return record.mask is not None


def read_views(record: Record) -> Tensor:
    """Read one picture or both, ``3|6 rows columns`` in [0, 1]."""
    return torch.from_numpy(record.extras[VIEWS].whole()).float() / 255


def _streams(batch: Any) -> Mapping[str, Any]:
    """Name the streams of a batch: without pairs, the frames come bare."""
    return {"labelled": batch} if isinstance(batch, Labelled) else batch
