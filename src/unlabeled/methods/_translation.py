"""Translation between two modalities that nobody scanned together: two generators, two critics, and the way there and back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unlabeled.errors import DataError, OptionError
from unlabeled.losses.adversarial import convince, tell_apart
from unlabeled.methods._base import Feed, Monitor, Phase, SharedOptions, Update, parameters
from unlabeled.nn.critics import PatchCritic, standing_still
from unlabeled.nn.schedules import Schedule, linear_end
from unlabeled.nn.translation import Translator
from unlabeled.options import Count, NonNegative, Positive
from unlabeled.transforms import overlay
from unlabeled.transforms.puzzles import cut

BETAS = (0.5, 0.999)  # of Adam (official code of CycleGAN)
CYCLE = Monitor("cycle", "lower", chance="blank")


@dataclass(frozen=True, kw_only=True)
class TranslationOptions(SharedOptions):
    """Defaults are ours unless another source is named; that the paper translates by such a scheme is unconfirmed.

    Parameters
    ----------
    translate
        Two modalities as the manifest names them: translation between them is learnt first, and a scan with one of them
        lends the puzzle the other.
    translation_share
        Epochs of the translation over those of what follows.
    translation_lr
        Its learning rate, of Adam (CycleGAN).
    translator_width, translator_blocks
        Channels and residual blocks of a translator; CycleGAN has 64 and 9.
    critic_width, critic_layers
        Of the critics (CycleGAN).
    cycle, identity
        Weights of giving back what was translated, and of leaving alone what needs none (CycleGAN).
    """

    translate: tuple[str, ...] = ()
    translation_share: Positive = 0.5
    translation_lr: Positive = 2e-4
    translator_width: Count = 32
    translator_blocks: Count = 6
    critic_width: Count = 64
    critic_layers: Count = 3
    cycle: NonNegative = 10.0
    identity: NonNegative = 5.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.translate and (len(set(self.translate)), len(self.translate)) != (2, 2):
            raise OptionError(
                f"--translate has {' '.join(self.translate)}, and translation is between two modalities",
                "Give two names of the manifest's column `modality`: --translate CT MR.",
            )

    def translation(self, edges: Sequence[int]) -> Translation | None:
        """Make the networks, for images of given edges; None where nothing is translated."""
        return Translation(self, edges) if self.translate else None

    def require_modalities(self, named: Sequence[Sequence[str]]) -> None:
        """Refuse scans, the names of whose modalities are given, of which none has what is to be translated.

        Raises
        ------
        DataError
            Naming those that there are.
        """
        known = sorted({name for names in named for name in names if name})
        for name in self.translate:
            if name not in known:
                raise DataError(
                    f"no scan is of modality {name!r}, which --translate names; there "
                    + (f"are {', '.join(known)}" if known else "are none with a name"),
                    "Name the modality of each image in the manifest's column `modality`, separated by `;`.",
                )


class Picture(NamedTuple):
    """One modality of a slice, ``*batch 1 rows columns``, and whether its rows run from left to right."""

    image: Tensor
    axial: Tensor


class Translation(nn.Module):
    """Two translators, one each way, and a critic of each modality (the scheme of CycleGAN, Zhu et al., ICCV 2017).

    What is translated shall convince the critic of the other modality, give the image back when it is translated back,
    and an image of the other modality shall stay as it is.

    Parameters
    ----------
    options
        The two modalities, the sizes of the networks, the weights of the terms.
    edges
        Of the images [pixel].

    Raises
    ------
    OptionError
        The critics have too many layers for such images.
    """

    def __init__(self, options: TranslationOptions, edges: Sequence[int]) -> None:
        super().__init__()
        self.names = options.translate
        self.cycle, self.identity = options.cycle, options.identity
        self.translators = nn.ModuleList(
            Translator(options.translator_width, options.translator_blocks) for _ in self.names
        )
        width, layers = options.critic_width, options.critic_layers
        critics = [PatchCritic(1, width=width, layers=layers, norm="instance") for _ in self.names]
        critics[0].check(edges)
        self.critics = nn.ModuleList(critics)

    def phase(self, feeds: Mapping[str, Feed], share: float) -> Phase:
        """Make the stage that trains it; `feeds` give `Picture` by the name of the modality."""
        trains: Mapping[str, Iterable[nn.Module]] = {
            "translators": [self.translators],
            "critics": [self.critics],
        }
        return Phase(
            "translation",
            self.step,
            trains,
            feeds,
            share=share,
            score=self.score,
            preview=self.preview,
            monitor=CYCLE,
        )

    def forward(self, image: Tensor, towards: int) -> Tensor:
        """Give ``batch 1 rows columns`` the contrast of the modality with this number."""
        made: Tensor = self.translators[towards](image)
        return made

    @torch.no_grad()
    def cut(self, source: Tensor, towards: Tensor, starts: Tensor, size: Sequence[int]) -> Tensor:
        """Translate images, and cut pieces out of what was made: ``batch piece 1 rows columns``, without gradients.

        Parameters
        ----------
        source
            ``batch 1 rows columns``.
        towards
            ``batch``: number of the modality that is made; where -1, nothing is made.
        starts
            ``batch piece 2``: first pixels.
        size
            Edges of a piece [pixel].
        """
        made = torch.zeros_like(source)
        for at in (0, 1):
            chosen = towards == at
            if chosen.any():
                made[chosen] = self(source[chosen], at).to(made.dtype)
        cuts = zip(made, starts.tolist(), strict=True)
        return torch.stack([cut(image, places, size) for image, places in cuts])

    def pictures(self, batch: Mapping[str, Picture]) -> list[Tensor]:
        """Give the two batches in the order of the modalities."""
        return [batch[name].image for name in self.names]

    def step(self, batch: Mapping[str, Picture]) -> Iterator[Update]:
        """Let the translators learn from both critics, then the critics from what was made."""
        real = self.pictures(batch)
        made = [self(real[1 - towards], towards) for towards in (0, 1)]
        with standing_still(self.critics):
            fooled = sum(convince(self.critics[at](made[at])) for at in (0, 1))
        back = sum(F.l1_loss(self(made[1 - at], at), real[at]) for at in (0, 1))
        kept = sum(F.l1_loss(self(real[at], at), real[at]) for at in (0, 1))
        loss = fooled + self.cycle * back + self.identity * kept
        yield Update(
            torch.as_tensor(loss), of="translators", shows={"cycle": torch.as_tensor(back) / 2}
        )
        judged = sum(
            tell_apart(self.critics[at](real[at]), self.critics[at](made[at].detach()))
            for at in (0, 1)
        )
        yield Update(torch.as_tensor(judged), of="critics")

    def score(self, batch: Mapping[str, Picture]) -> dict[str, Tensor]:
        """Measure the mean absolute error of the way there and back, beside that of a blank image."""
        real = self.pictures(batch)
        back = [F.l1_loss(self(self(real[at], 1 - at), at), real[at]) for at in (0, 1)]
        means = [image.mean((1, 2, 3), keepdim=True) for image in real]
        blank = [(image - mean).abs().mean() for image, mean in zip(real, means, strict=True)]
        return {"cycle": torch.stack(back).mean(), "blank": torch.stack(blank).mean()}

    def preview(self, batch: Mapping[str, Picture]) -> dict[str, Tensor]:
        """Show both modalities, and each as the other."""
        real = self.pictures(batch)
        shown = {}
        for at, name in enumerate(self.names):
            made = self(real[at], 1 - at)
            for caption, image in ((name, real[at]), (f"{name} as {self.names[1 - at]}", made)):
                shown[caption] = upright(overlay.in_range(image), batch[name].axial)
        return shown


def translation_adam(
    options: TranslationOptions, modules: Iterable[nn.Module]
) -> tuple[torch.optim.Optimizer, Schedule]:
    """Make Adam; its rate stays for half of the stage and falls to 0 in a line (CycleGAN)."""
    adam = torch.optim.Adam(parameters(modules), lr=options.translation_lr, betas=BETAS)
    return adam, linear_end()


def upright(slices: Tensor, axial: Tensor) -> Tensor:
    """Turn ``batch channel rows columns`` so that the front is up, where all are axial slices."""
    return overlay.upright(slices) if bool(axial.all()) else slices
