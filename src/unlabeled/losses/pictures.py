"""How unlike two pictures look: pixels, their smoothness and, with weights at hand, features of VGG-19."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unlabeled.errors import RunError
from unlabeled.losses.reconstruction import mean_magnitude, relative_error, total_variation

WIDTHS = (64, 64, 128, 128)
SHARES = (0.15, 0.70, 0.15)  # of pixels, first and second block (Beliy et al., official code)
_PLACES = (0, 2, 5, 7)  # of these convolutions among torchvision's ``features``
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # as torchvision's weights were trained


class VGGFeatures(nn.Module):
    """Second convolution of the first and of the second block (Simonyan & Zisserman, ICLR 2015), after ReLU; frozen.

    Takes red, green and blue in [0, 1]; fresh weights are zero until `take` puts a file's in.
    """

    def __init__(self) -> None:
        super().__init__()
        entering = (3, *WIDTHS[:-1])
        self.convs = nn.ModuleList(
            nn.Conv2d(before, after, 3, padding=1)
            for before, after in zip(entering, WIDTHS, strict=True)
        )
        for parameter in self.parameters():
            nn.init.zeros_(parameter)
        self.requires_grad_(False)

    def forward(self, picture: Tensor) -> tuple[Tensor, Tensor]:
        """Compute ``batch 64 rows columns`` and ``batch 128 rows/2 columns/2``."""
        mean, std = (
            torch.tensor(each, dtype=picture.dtype, device=picture.device).view(1, 3, 1, 1)
            for each in (_MEAN, _STD)
        )
        first = F.relu(self.convs[1](F.relu(self.convs[0]((picture - mean) / std))))
        second = F.relu(self.convs[3](F.relu(self.convs[2](F.max_pool2d(first, 2)))))
        return first, second

    def take(self, tensors: Mapping[str, Tensor], source: str) -> None:
        """Take weights from the tensors of a file that names them as torchvision does.

        Raises
        ------
        RunError
            A tensor is missing or has another shape.
        """
        found = {}
        for own, place in enumerate(_PLACES):
            for part in ("weight", "bias"):
                value = tensors.get(f"features.{place}.{part}")
                wanted = tuple(self.get_parameter(f"convs.{own}.{part}").shape)
                if value is None or tuple(value.shape) != wanted:
                    raise RunError(
                        f"{source} holds no VGG-19: features.{place}.{part} is missing or not {wanted}",
                        "Give torchvision's vgg19 weights, or leave the option out: pictures are then compared by "
                        "their pixels alone.",
                    )
                found[f"convs.{own}.{part}"] = value.float()
        self.load_state_dict(found)


class PictureLoss(nn.Module):
    """Mean absolute error of pixels and features, each in units of its usual magnitude, and total variation.

    With VGG-19, ``0.70 first block + 0.15 second block + 0.15 pixels``; without it, pixels alone with weight 1 (ours).
    Source: Beliy et al., NeurIPS 2019, official code.

    Parameters
    ----------
    smoothness
        Weight of the total variation.
    features
        Whether VGG-19 is used; `take` and then `measure` have to be called before training.
    """

    def __init__(self, smoothness: float, *, features: bool) -> None:
        super().__init__()
        self.smoothness = smoothness
        self.vgg = VGGFeatures() if features else None
        widths = (3, WIDTHS[1], WIDTHS[3]) if features else (3,)
        for number, width in enumerate(widths):
            self.register_buffer(f"magnitude{number}", torch.ones(width))

    def forward(self, truth: Tensor, guess: Tensor) -> Tensor:
        """Compare ``batch 3 rows columns`` in [0, 1]: a loss a row."""
        loss = self.smoothness * total_variation(guess)
        shares = SHARES if self.vgg is not None else (1.0,)
        pairs = zip(shares, self._maps(truth), self._maps(guess), strict=True)
        for number, (share, wanted, found) in enumerate(pairs):
            magnitude = self.get_buffer(f"magnitude{number}")
            loss = loss + share * relative_error(wanted, found, magnitude)
        return loss

    @torch.no_grad()
    def measure(self, batches: Iterable[Tensor]) -> None:
        """Measure the usual magnitudes on training pictures, ``batch 3 rows columns``.

        A channel that is nearly always zero counts as if it had a hundredth of the mean magnitude (ours), for it would
        be divided by nothing.
        """
        totals: list[Tensor] = []
        count = 0
        for batch in batches:
            found = [mean_magnitude(maps) * len(batch) for maps in self._maps(batch)]
            totals = [a + b for a, b in zip(totals, found, strict=True)] if totals else found
            count += len(batch)
        for number, total in enumerate(totals):
            mean = total / count
            least = 0.01 * float(mean.mean()) or 1.0
            self.get_buffer(f"magnitude{number}").copy_(mean.clamp(min=least))

    def _maps(self, picture: Tensor) -> tuple[Tensor, ...]:
        return (picture,) if self.vgg is None else (picture, *self.vgg(picture))
