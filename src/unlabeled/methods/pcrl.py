"""PCRL: contrast that must keep enough of an image to rebuild it in several contexts (Zhou et al., ICCV 2021).

Two overlapping crops y1, y2 of a scan are distorted to x1, x2.  A student S sees x1, its momentum copy T, the teacher,
sees x2; both give feature maps and an embedding.  A decoder D rebuilds three contexts from the student's maps.

    out       = D(F1)                    is to be  T1(x1)
    out_alpha = D(alpha F1 + (1-alpha) F2)     to be  alpha T1(x1) + (1-alpha) T2(x2)

where T1, T2 flip and turn, and what they did reaches D only as a code that gates the channels of the coarsest maps.  The
same again with pairs blended with those of another scan (weight lam), without code; then what is to be rebuilt are the
blended crops themselves, not distorted.  L_rec is the mean of the four squared errors.

    L = (l(q, k) + l(qm, km) + l(qm, mix(k))) / 3 + L_rec

with the cost l of telling a pair from a queue of earlier keys (as in C2L, by NCE), qm and km of the blended pairs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from unlabeled.data.lung import ContentFilter
from unlabeled.data.scan import Unit
from unlabeled.data.store import Record
from unlabeled.methods._base import (
    Feed,
    Method,
    Monitor,
    Needs,
    Phase,
    SharedOptions,
    Update,
    parameters,
    patch_for,
)
from unlabeled.methods._key_contrast import Criterion, KeyContrast, PairOptions, find_again, unit
from unlabeled.nn.decoders import build_decoder
from unlabeled.nn.encoders import Encoder
from unlabeled.nn.gating import CodeGate
from unlabeled.nn.heads import ClassificationHead
from unlabeled.nn.momentum import Teacher
from unlabeled.nn.schedules import Schedule, cosine
from unlabeled.options import Between, Count, NonNegative, Positive, Probability
from unlabeled.transforms.crop_pairs import PicturePairs, VolumePairs
from unlabeled.transforms.cutout import GREY
from unlabeled.transforms.mixing import Mixing, draw_weight
from unlabeled.transforms.turning import FlipTurn

SPREAD = 0.226  # deviation that pictures are standardised by, beside the mean GREY: ImageNet's (official code)
WEIGHT_DECAY = 1e-4  # official code


@dataclass(frozen=True, kw_only=True)
class Options(PairOptions):
    """Defaults of the official code for chest CT unless another source is named.

    Parameters
    ----------
    patch_size
        Edge lengths of a view [voxel]; pictures and slices take the first two, the official code 224 224.
    batch_size
        Pairs of views a step (the official README: 16, of radiographs 64).
    epochs
        Passes over the scans (the official README).
    samples_per_scan
        Pairs of crops that each scan gives an epoch; of radiographs 1.
    encoder
        Network that is carried to the task; for radiographs the official code has resnet18.
    features
        Length of an embedding, and width of the hidden layer before it.
    least_overlap
        What two crops of a volume share is more than this of what they cover together.
    p_flip
        Probability of mirroring left and right before the network sees a view.
    degrees
        Largest rotation [degree], of volumes about each axis (TorchIO's default, unconfirmed).
    zoom
        Largest change of magnification along each axis of a volume (TorchIO's default, unconfirmed).
    blur
        Largest width of the blur [voxel] (of volumes TorchIO's default, unconfirmed).
    brightness, contrast
        Largest change of each factor, of pictures.
    p_shuffle, p_paint
        Probabilities of local shuffling and of painting, of volumes; both views are painted or none.
    p_inpaint
        Share of in-painting among paintings; the rest is out-painting.
    shuffle_windows
        Windows of local shuffling.
    content_filter
        Which crops are taken: any, or those with lung (CT alone); auto takes those with lung in official mode on CT
        volumes (ours: the official code knows no other organ).
    """

    patch_size: tuple[Count, ...] = (64, 64, 32)
    batch_size: Count = 16
    epochs: Count = 240
    samples_per_scan: Count = 16
    lr: Positive = 1e-3
    temperature: Positive = 0.2
    criterion: Criterion = "nce"
    least_overlap: Annotated[float, Between(0, 0.9)] = 0.25
    zoom: Annotated[float, Between(0, 0.9)] = 0.1
    blur: NonNegative = 2.0
    p_shuffle: Probability = 0.5
    p_paint: Probability = 0.9
    p_inpaint: Probability = 0.2
    shuffle_windows: Count = 10_000
    content_filter: ContentFilter = "auto"


class Sample(NamedTuple):
    """Two views of a scan, ``*batch view ...``; images are ``channel *space`` in [0, 1]."""

    seen: Tensor  # distorted crops x, which the networks see
    turned: Tensor  # T(x): the same, flipped and turned
    clean: Tensor  # the crops y as they were
    code: Tensor  # what T did: one number an axis, then one-hot the quarter turns
    scan: Tensor  # *batch: tells scans apart


class PreservationalLearning(Method):
    """Student and teacher are compared as in C2L, and what they see must be rebuilt in several contexts."""

    needs: ClassVar[Needs] = Needs(unit=Unit.VOLUME, dims=(2, 3), subjects=2)
    options_class: ClassVar[type[SharedOptions]] = Options
    monitor: ClassVar[Monitor] = Monitor("mse", "lower", chance="variance")
    quirks: ClassVar[Mapping[str, str]] = {
        "queue": "official: keys of all three pairs are pushed, each before the next pair is compared, so that a batch's "
        "own keys are among its negatives; clean: keys of the first pair alone, after the step",
        "first rows of the queue": "official: uniform numbers, of length about 1; clean: directions of length 1",
        "n of NCE": "official: batches of an epoch; clean: pairs of crops of an epoch",
        "Z of NCE": "official: cut to a whole number, which may be 0; clean: as it is",
    }

    options: Options

    def __init__(self, options: Options, encoder: Encoder) -> None:
        super().__init__(options, encoder)
        self.patch = patch_for(encoder, options.patch_size)
        encoder.check(self.patch)
        self.projector = ClassificationHead(encoder, options.features, hidden=options.features)
        self.decoder = build_decoder(encoder, out_channels=encoder.in_channels)
        self.gate = CodeGate(encoder.dims + 4, encoder.channels[-1])
        self.teacher = Teacher(encoder, self.projector)
        self.pairs = KeyContrast(options)
        self.crops: PicturePairs | VolumePairs = (
            picture_pairs(options) if encoder.dims == 2 else volume_pairs(options)
        )

    def phases(self) -> tuple[Phase, ...]:
        """Train student, decoder and gate in one stage; the teacher starts as the student's copy."""
        feed = Feed(self.views, self.options.batch_size, self.needs.unit)
        return (Phase("pretrain", self.step, {"main": [self]}, {"scans": feed}, before=self.begin),)

    def begin(self, records: Sequence[Record]) -> None:
        """Copy the student, and count what there is to learn from."""
        self.teacher.follow(self.encoder, self.projector, momentum=0)
        crops = len(records) * self.options.samples_per_scan
        batches = -(-crops // self.options.batch_size)
        self.pairs.images.fill_(batches if self.pairs.official else crops)

    def views(self, record: Record, rng: Generator) -> Sample:
        """Cut two crops, distort them, and flip and turn copies of what came out."""
        clean, seen, number = self.crops(record, rng)
        turns = [FlipTurn.draw(self.patch, rng) for _ in seen]
        turned = [turn(view) for turn, view in zip(turns, seen, strict=True)]
        return Sample(
            seen=torch.stack(seen),
            turned=torch.stack(turned),
            clean=torch.stack(clean),
            code=torch.stack([turn.code for turn in turns]),
            scan=torch.tensor(number),
        )

    def restore(self, maps: Sequence[Tensor], space: Sequence[int]) -> Tensor:
        """Rebuild ``batch channel *space`` from feature maps: in (0, 1) for volumes, standardised for pictures."""
        restored: Tensor = self.decoder(maps, space).float()
        return restored if self.encoder.dims == 2 else torch.sigmoid(restored)

    def target(self, images: Tensor) -> Tensor:
        """Give what is to be rebuilt in the unit of what is: that of the images for volumes, standardised for pictures."""
        return (images - GREY) / SPREAD if self.encoder.dims == 2 else images

    def gated(self, maps: Sequence[Tensor], code: Tensor) -> list[Tensor]:
        """Gate the coarsest map by a code; the finer ones stay as they are."""
        *skips, coarsest = maps
        return [*skips, self.gate(coarsest, code)]

    def contexts(
        self, own: Sequence[Tensor], other: Sequence[Tensor], alpha: float, space: Sequence[int]
    ) -> tuple[Tensor, Tensor]:
        """Rebuild from the student's maps, and from their blend with the teacher's of the other view."""
        blend = [torch.lerp(theirs, ours, alpha) for ours, theirs in zip(own, other, strict=True)]
        return self.restore(own, space), self.restore(blend, space)

    def step(self, batch: Sample) -> Iterator[Update]:
        """Compare and rebuild pairs of views, then pairs blended with others."""
        (x1, x2), (code1, code2) = batch.seen.unbind(1), batch.code.unbind(1)
        mix = Mixing.draw(len(x1), self.options.mixing)
        alphas = [draw_weight(self.options.mixing) for _ in range(2)]
        space = x1.shape[2:]

        own, (other, key) = self.encoder(x1), self.teacher.outputs(x2)
        query = unit(self.projector(own))
        gated = self.gated(own, code1), self.gated(other, code2)
        rebuilt = self.contexts(*gated, alphas[0], space)

        mixed, (mixed_other, mixed_key) = self.encoder(mix(x1)), self.teacher.outputs(mix(x2))
        mixed_query = unit(self.projector(mixed))
        rebuilt_mixed = self.contexts(mixed, mixed_other, alphas[1], space)

        keys = [unit(key), unit(mixed_key), unit(mix(key.float()))]
        contrast = torch.stack(self.pairs.compare([query, mixed_query, mixed_query], keys)).mean()
        turned, clean = batch.turned.unbind(1), [mix(each) for each in batch.clean.unbind(1)]
        errors = [
            *self.errors(rebuilt, turned, alphas[0]),
            *self.errors(rebuilt_mixed, clean, alphas[1]),
        ]
        restoration = torch.stack(errors).mean()
        shows = {"contrast": contrast, "restoration": restoration}
        yield Update(contrast + restoration, shows=shows)
        self.teacher.follow(self.encoder, self.projector, momentum=self.options.momentum)
        self.pairs.remember(keys[0])

    def errors(
        self, rebuilt: tuple[Tensor, Tensor], truth: Sequence[Tensor], alpha: float
    ) -> tuple[Tensor, Tensor]:
        """Measure both squared errors, of the student's maps alone and of their blend, over all voxels."""
        first, second = (self.target(each.float()) for each in truth)
        alone, blended = rebuilt
        blend = torch.lerp(second, first, alpha)
        return F.mse_loss(alone, first), F.mse_loss(blended, blend)

    def optimiser(
        self, name: str, modules: Iterable[nn.Module]
    ) -> tuple[torch.optim.Optimizer, Schedule]:
        """Make SGD with momentum and weight decay; the rate falls on half a cosine."""
        moved, lr = parameters(modules), self.options.lr
        made = torch.optim.SGD(moved, lr=lr, momentum=0.9, weight_decay=WEIGHT_DECAY)
        return made, cosine()

    def score(self, batch: Sample) -> dict[str, Tensor]:
        """Measure the error of rebuilding first views, in the images' own unit, and find each view's scan again.

        ``mse`` is that of the flipped and turned view, ``mse_wrong_code`` that with a code which tells of one flip more
        or less, ``identity`` that of giving back the view as it was seen, ``variance`` that of the mean intensity;
        ``mse_clean`` is that of crops blended half and half.  ``retrieval`` is the share of first views whose nearest
        second view is of the same scan, ``chance`` that of guessing.
        """
        (x1, x2), turned, code = batch.seen.unbind(1), batch.turned[:, 0], batch.code[:, 0]
        half = Mixing.evenly(len(x1))
        wrong = code.clone()
        wrong[:, 0] = 1 - wrong[:, 0]
        own = self.encoder(x1)
        query, key = unit(self.projector(own)), unit(self.teacher(x2))
        _, found = find_again(query, key, batch.scan)
        restored = self.shown(self.gated(own, code), x1)
        return {
            "mse": F.mse_loss(restored, turned),
            "mse_wrong_code": F.mse_loss(self.shown(self.gated(own, wrong), x1), turned),
            "identity": F.mse_loss(x1, turned),
            "variance": turned.var(correction=0),
            "mse_clean": F.mse_loss(
                self.shown(self.encoder(half(x1)), x1), half(batch.clean[:, 0])
            ),
            **found,
        }

    def shown(self, maps: Sequence[Tensor], like: Tensor) -> Tensor:
        """Rebuild images in their own unit."""
        restored = self.restore(maps, like.shape[2:])
        return restored * SPREAD + GREY if self.encoder.dims == 2 else restored

    def preview(self, batch: Sample) -> dict[str, Tensor]:
        """Show a view, what is to be made of it and what is; then views of two scans blended, likewise."""
        x1, half = batch.seen[:, 0], Mixing.evenly(len(batch.seen))
        turned = self.shown(self.gated(self.encoder(x1), batch.code[:, 0]), x1)
        mixed = half(x1)
        return {
            "view": x1,
            "flipped, turned": batch.turned[:, 0],
            "made of the view": turned.clamp(0, 1),
            "two blended": mixed,
            "without distortion": half(batch.clean[:, 0]),
            "made of both": self.shown(self.encoder(mixed), x1).clamp(0, 1),
        }

    def carries(self) -> dict[str, nn.Module]:
        """Carry the student's encoder to any task and its decoder to segmentation."""
        return {"encoder": self.encoder, "decoder": self.decoder}


def picture_pairs(options: Options) -> PicturePairs:
    """Say how crops of pictures are made."""
    rows, columns, *_ = options.patch_size
    return PicturePairs(
        patch=(rows, columns),
        least_area=options.least_area,
        p_flip=options.p_flip,
        degrees=options.degrees,
        blur=options.blur,
        brightness=options.brightness,
        contrast=options.contrast,
        holes=options.holes,
        hole_size=options.hole_size,
    )


def volume_pairs(options: Options) -> VolumePairs:
    """Say how crops of volumes are made."""
    return VolumePairs(
        patch=options.patch_size[:3],
        least_overlap=options.least_overlap,
        p_flip=options.p_flip,
        degrees=options.degrees,
        zoom=options.zoom,
        blur=options.blur,
        p_shuffle=options.p_shuffle,
        shuffle_windows=options.shuffle_windows,
        p_paint=options.p_paint,
        p_inpaint=options.p_inpaint,
        content_filter=options.content_filter,
        official=options.fidelity == "official",
    )
