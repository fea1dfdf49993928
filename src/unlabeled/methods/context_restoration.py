"""Context restoration: put swapped patches back (Chen et al., Medical Image Analysis 2019).

Two small patches of an image x that do not overlap change places, T times over.  All intensities stay, so the histogram
is that of x; only the context is wrong.  A network, an analysis part and a reconstruction part, sees the damaged image
x~ and gives the image back: ``L = mean((f(x~) - x) ** 2)`` over all voxels, swapped or not.  For classification the
reconstruction part is a few deconvolution layers; for segmentation it mirrors the analysis part, with concatenation
links, and is carried over as well.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from unlabeled.data.intensity import IntensityRule
from unlabeled.data.sampling import draw_start, patch_size
from unlabeled.data.scan import Unit
from unlabeled.data.store import Record
from unlabeled.errors import OptionError
from unlabeled.losses.restoration import masked_error
from unlabeled.methods._base import (
    Method,
    Monitor,
    Needs,
    SharedOptions,
    Update,
    parameters,
    patch_for,
)
from unlabeled.nn.decoders import Deconvolutions, build_decoder
from unlabeled.nn.encoders import Encoder
from unlabeled.nn.schedules import Schedule, cosine
from unlabeled.options import Count, Positive, Probability, Whole
from unlabeled.transforms.overlay import in_range
from unlabeled.transforms.shuffling import PatchSwap
from unlabeled.transforms.spatial import RepeatedFlip


@dataclass(frozen=True, kw_only=True)
class Options(SharedOptions):
    """Defaults are ours unless the paper is named: its numbers are unconfirmed, and no code was published.

    Parameters
    ----------
    epochs
        Passes over the scans.
    batch_size
        Samples a step, over all devices.
    samples_per_scan
        Patches that each scan gives an epoch.
    lr
        Learning rate at the start, of Adam; it falls on half a cosine.
    patience
        Scores without improvement after which the training ends.
    encoder
        Analysis part; the paper has a U-Net for segmentation and sononet-64 for classification.
    patch_size
        Edge lengths of a patch [voxel]; pictures and slices take the first two.  The paper sees whole images: the
        larger, the more layout there is to learn.
    swaps
        Pairs of patches that change places, T; 0 makes an autoencoder.
    swap_shares
        Shortest and longest edge of a swapped patch along each axis, as shares of the image's; the paper has small ones.
    swap_edges
        Instead, edges of every swapped patch [voxel], one for each axis (scans of unequal spacing).
    foreground
        Whether only patches within the box around the scan's foreground are swapped.
    p_flip
        Probability of each further flip, at most three; a flip acts on input and target alike.
    links
        Whether concatenation links join both parts (paper: for segmentation yes, for classification no).
    intensities
        Scaled from their window to [0, 1], or standardised over the foreground.
    ct_window
        Window of CT scans [HU].
    """

    epochs: Count = 200
    batch_size: Count = 16
    samples_per_scan: Count = 8
    lr: Positive = 1e-3
    patience: Count = 20
    encoder: str = "unet"
    patch_size: tuple[Count, ...] = (64, 64, 32)
    swaps: Whole = 10
    swap_shares: tuple[Probability, Probability] = (0.0625, 0.125)
    swap_edges: tuple[Count, ...] | None = None
    foreground: bool = False
    p_flip: Probability = 0.0
    links: bool = True
    intensities: Literal["window", "zscore"] = "window"
    ct_window: tuple[float, float] = (-160.0, 240.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, pair, equal in (
            ("--swap-shares", self.swap_shares, True),
            ("--ct-window", self.ct_window, False),
        ):
            if pair[0] > pair[1] or (pair[0] == pair[1] and not equal):
                raise OptionError(
                    f"{name} goes from {pair[0]} to {pair[1]}, which is empty",
                    f"Give the smaller one first: {name} {min(pair)} {max(pair)}."
                    if pair[0] != pair[1]
                    else f"Give two ends: {name} -160 240.",
                )


class Sample(NamedTuple):
    """A patch and its copy with swapped places, ``*batch channel *space``."""

    damaged: Tensor
    intact: Tensor


class ContextRestoration(Method):
    """An encoder-decoder sees an image with patches at wrong places and must return the right one."""

    needs: ClassVar[Needs] = Needs(unit=Unit.SLICE, dims=(2, 3))
    options_class: ClassVar[type[SharedOptions]] = Options
    monitor: ClassVar[Monitor] = Monitor("mse", "lower", chance="identity")
    keeps = "best"

    options: Options

    def __init__(self, options: Options, encoder: Encoder) -> None:
        super().__init__(options, encoder)
        build = build_decoder if options.links else Deconvolutions
        self.decoder: nn.Module = build(encoder, out_channels=encoder.in_channels)
        self.patch = patch_for(encoder, options.patch_size)
        encoder.check(self.patch)
        self.swap = fitting_swap(options, self.patch)
        self.flip = RepeatedFlip(options.p_flip)

    @classmethod
    def intensity(cls, options: SharedOptions) -> IntensityRule:
        """Scale to [0, 1] or standardise; CT from a window of the abdomen."""
        if not isinstance(options, Options):
            return IntensityRule(ct=Options.ct_window)
        return IntensityRule(kind=options.intensities, ct=options.ct_window)

    def notes(self) -> tuple[str, ...]:
        """Say that without swaps there is no context to restore."""
        if self.options.swaps:
            return ()
        return ("no patches are swapped (--swaps 0): the network learnt as an autoencoder",)

    def views(self, record: Record, rng: Generator) -> Sample:
        """Cut a patch, swap places in a copy, and flip both alike; what lies beyond the scan is not swapped."""
        size = patch_size(record, self.patch)
        start = draw_start(record.space, size, rng)
        intact = record.patch(start, size).reshape(-1, *self.patch)
        region = self._region(record, start)
        damaged = intact.clone()
        damaged[region] = self.swap(intact[region], rng)
        return Sample(*self.flip(torch.cat([damaged, intact]), rng).chunk(2))

    def restore(self, damaged: Tensor) -> Tensor:
        """Restore ``batch channel *space``; the output is linear."""
        restored: Tensor = self.decoder(self.encoder(damaged), damaged.shape[2:])
        return restored.float()

    def step(self, batch: Sample) -> Iterator[Update]:
        """Compare with the intact patch, over all voxels."""
        yield Update(F.mse_loss(self.restore(batch.damaged), batch.intact.float()))

    def optimiser(
        self, name: str, modules: Iterable[nn.Module]
    ) -> tuple[torch.optim.Optimizer, Schedule]:
        """Make Adam; the rate falls on half a cosine."""
        return torch.optim.Adam(parameters(modules), lr=self.options.lr), cosine()

    def score(self, batch: Sample) -> dict[str, Tensor]:
        """Measure the error, over all voxels and over those that changed, beside those of giving back the input.

        ``variance`` is the error of giving back the mean intensity, ``swapped`` the share of voxels that changed; swaps
        within an empty background change none.
        """
        damaged, intact = batch
        restored, changed = self.restore(damaged), damaged != intact
        return {
            "mse": F.mse_loss(restored, intact.float()),
            "mse_swapped": masked_error(restored, intact, changed),
            "identity": F.mse_loss(damaged, intact),
            "identity_swapped": masked_error(damaged, intact, changed),
            "variance": intact.float().var(correction=0),
            "swapped": changed.float().mean(),
        }

    def preview(self, batch: Sample) -> dict[str, Tensor]:
        """Show the intact patch, the damaged one, what the network makes of it, and how far that is off (white: far)."""
        damaged, intact = batch.damaged.float(), batch.intact.float()
        restored = self.restore(damaged)
        shown = {"intact": intact, "damaged": damaged, "restored": restored}
        pictures = {name: in_range(image, intact) for name, image in shown.items()}
        return pictures | {"error": (pictures["restored"] - pictures["intact"]).abs()}

    def carries(self) -> dict[str, nn.Module]:
        """Carry the analysis part, and the reconstruction part where it has links; a task replaces the last layer."""
        return {"encoder": self.encoder} | ({"decoder": self.decoder} if self.options.links else {})

    def _region(self, record: Record, start: Sequence[int]) -> tuple[slice, ...]:
        """Say where patches may change places in what was cut: within the foreground, else the scan, else anywhere."""
        whole = [(0, edge) for edge in record.space]
        least = self.swap.edges or (1,) * len(self.patch)
        for box in [record.foreground, whole] if self.options.foreground else [whole]:
            region = [
                slice(max(0, first - at), min(edge, stop - at))
                for at, edge, (first, stop) in zip(start, self.patch, box, strict=False)
            ]
            if all(cut.stop - cut.start >= edge for cut, edge in zip(region, least, strict=True)):
                return (slice(None), *region)
        return (slice(None), *(slice(edge) for edge in self.patch))


def fitting_swap(options: Options, patch: tuple[int, ...]) -> PatchSwap:
    """Make the transform, whose patches must fit side by side into `patch` [voxel].

    Raises
    ------
    OptionError
        When there are edges for too few axes, or two swapped patches do not fit.
    """
    edges = options.swap_edges
    if edges is not None and len(edges) < len(patch):
        raise OptionError(
            f"--swap-edges has {len(edges)} edges, and the images have {len(patch)} axes",
            f"Give --swap-edges {' '.join(map(str, (edges * 3)[: len(patch)]))}.",
        )
    swap = PatchSwap(options.swaps, options.swap_shares, edges and edges[: len(patch)])
    asked = swap.edges or [low for low, _ in swap.edge_ranges(patch)]
    too_long = any(edge > extent for edge, extent in zip(asked, patch, strict=True))
    if too_long or all(2 * edge > extent for edge, extent in zip(asked, patch, strict=True)):
        small = " ".join(str(max(1, extent // 8)) for extent in patch)
        raise OptionError(
            f"two patches of {' x '.join(map(str, asked))} voxels do not fit side by side into "
            f"{' x '.join(map(str, patch))}, so none can change places",
            f"Give --swap-edges {small}, or a larger --patch-size.",
        )
    return swap
