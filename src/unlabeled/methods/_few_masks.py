"""What methods share that learn to segment from few masks among many images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, Self

import torch
from torch import Generator, Tensor

from unlabeled.data.few_masks import FewMasks
from unlabeled.data.labels import Labels, find_labels
from unlabeled.data.record import Record
from unlabeled.errors import OptionError
from unlabeled.losses.pseudo_labels import doubt
from unlabeled.methods._base import Method, Product, SharedOptions, patch_for
from unlabeled.nn.decoders import build_decoder
from unlabeled.nn.encoders import Encoder
from unlabeled.nn.whole_scans import over_tiles
from unlabeled.options import Count, Probability
from unlabeled.transforms.masked_views import Labelled, MaskedViews, Paced, Unlabelled
from unlabeled.transforms.overlay import side_by_side, tinted

TILE, MARGIN = 1024, 96  # edge and margin segmented at once [voxel]


@dataclass(frozen=True, kw_only=True)
class FewMaskOptions(SharedOptions):
    """Defaults are ours.

    Parameters
    ----------
    label_fraction
        Share of the subjects with masks whose masks are learnt from; all other images are unlabelled.  1 suits archives
        where few scans have masks; 0 reads no mask.
    labels
        What is segmented: each value of the masks, or any value but 0 as one class (masks that number single objects).
    label_values
        Values of the masks that are classes, ascending; without it, those that the masks of all scans hold.
    turns
        Whether images are turned by quarters and flipped.
    """

    label_fraction: Probability = 1.0
    labels: Literal["each", "any"] = "each"
    label_values: tuple[Count, ...] | None = None
    turns: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.label_values is not None and sorted(set(self.label_values)) != [*self.label_values]:
            raise OptionError(
                f"--label-values are {' '.join(map(str, self.label_values))}, not ascending",
                f"Give --label-values {' '.join(map(str, sorted(set(self.label_values))))}.",
            )

    @property
    def learns_masks(self) -> bool:
        """Whether any mask is learnt from."""
        return self.label_fraction > 0

    @property
    def classes(self) -> Labels:
        """The background, and the classes that are settled."""
        values = (0, *(self.label_values or ()))
        return Labels(values, tuple(map(str, values)), merged=self.labels == "any")

    def settled(self, slug: str, records: Sequence[Record], *, instead: str, others: bool) -> Self:
        """Settle the classes by the masks; refuse scans as `FewMasks.require` does, the arguments of which these are."""
        if not self.learns_masks:
            return self
        masked = FewMasks(self.label_fraction).require(
            slug, records, instead=instead, others=others
        )
        found = self.label_values or find_labels(masked, mode=self.labels).values[1:]
        return replace(self, label_values=found)


def show_answer(seen: Labelled, likely: Tensor) -> dict[str, Tensor]:
    """Show what is said of labelled images beside what is true.

    Parameters
    ----------
    seen
        Images with their classes.
    likely
        Probabilities, ``batch class *space``.
    """
    classes = likely.shape[1] - 1
    return {
        "image": seen.image.float().clamp(0, 1),
        "mask": seen.labels[:, None] / classes,
        "foreground": 1 - likely[:, :1],
        "answer": likely.argmax(1, keepdim=True) / classes,
        "entropy": doubt(likely)[:, None],
    }


class FewMaskMethod(Method):
    """A method with a decoder that segments, where any mask is learnt from.

    Parameters
    ----------
    options
        The method's own, with classes that are settled.
    encoder
        The network that is carried to the task.
    """

    options: FewMaskOptions

    def __init__(self, options: FewMaskOptions, encoder: Encoder) -> None:
        super().__init__(options, encoder)
        self.patch = patch_for(encoder, options.patch_size)
        encoder.check(self.patch)
        self.masks = FewMasks(options.label_fraction, options.seed)

    def add_decoder(self) -> None:
        """Make the decoder, where any mask is learnt from."""
        if self.options.learns_masks:
            if self.options.label_values is None:
                raise OptionError("what masks hold is not known", "Give --label-values.")
            self.decoder = build_decoder(
                self.encoder, out_channels=len(self.options.classes.values)
            )

    @property
    def cuts(self) -> MaskedViews:
        """What cuts samples."""
        return MaskedViews(self.patch, self.options.classes, self.options.turns)

    def views(self, record: Record, rng: Generator) -> Labelled:
        """Cut an image and its mask, and turn both alike."""
        return self.cuts.labelled(record, rng)

    def unlabelled(self, item: Record | Paced, rng: Generator) -> Unlabelled:
        """Cut an image; its mask, where there is one, is not looked at."""
        return self.cuts.unlabelled(item, rng)

    def segment(self, image: Tensor) -> Tensor:
        """Compute logits ``batch class *space``."""
        logits: Tensor = self.decoder(self.encoder(image), image.shape[2:])
        return logits

    def product(self, record: Record) -> Product:
        """Segment a whole scan part by part, a volume slice by slice, and say how unsure that is; draw both of a picture."""
        if not self.options.learns_masks:
            raise OptionError(
                "this run learnt from no mask and segments nothing",
                "Pretrain with a --label-fraction above 0, or fine-tune it: unlabeled finetune segment.",
            )
        device = next(self.parameters()).device
        dims, classes = self.encoder.dims, self.options.classes
        logits = over_tiles(self.segment, record, dims, edge=TILE, margin=MARGIN, device=device)
        likely = logits.float().softmax(0)
        found, unsure = likely.argmax(0), doubt(likely[None])
        pictures = {}
        if record.dims == 2:
            image = record.patch((0, 0), record.space)[None].float()
            drawn = [tinted(image, (found > 0)[None].float())[0], unsure.expand(3, -1, -1)]
            pictures["overlay"] = side_by_side(drawn)
        return Product(
            masks={"segmentation": torch.from_numpy(classes.decode(found.numpy()))},
            images={"uncertainty": unsure},
            pictures=pictures,
            values={"mean uncertainty": float(unsure.mean())},
        )
