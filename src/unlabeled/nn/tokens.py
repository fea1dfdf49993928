"""Tokenisers of report text: hashed words for encoders from scratch, WordPiece for BERT files.

Neither learns a word list: a hashed vocabulary is fixed before any report is read, and a WordPiece one is that of the
published file.  So nothing that is saved tells which words were in the reports.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from unlabeled.errors import OptionError, RunError

_SPLIT = re.compile(r"[^\W_]+|[^\w\s]|_")
_LONGEST_WORD = 100  # letters; longer ones are unknown (BERT)

_LISTED = """
a abnormal abnormality above absent acute adjacent airspace and angle angles aorta aortic apex apical apices arch are
arrow artery at atelectasis atelectatic basal base bases basilar be below bibasilar bilateral bilaterally blunted
blunting bone bones bony bright bronchial bronchogram bronchograms calcification calcifications calcified cardiac
cardiomediastinal cardiomegaly carina catheter cavity central change changes chest chronic circle clear collapse
compared compatible complete concerning congestion congestive consistent consolidation consolidations consolidative
contour contours contusion costophrenic cross crowding ct cyst cystic cysts dark decreased degenerative demonstrate
demonstrates dense density diaphragm diffuse diffusely disc disease dorsal due edema effusion effusions elevated
elevation emphysema emphysematous endotracheal enlarged enlargement ett evidence extensive failure faint fibrosis
fibrotic field fields finding findings fissure fluid focal for fracture fractures from giant glass grossly ground
haziness hazy heart hemidiaphragm hemithorax hernia hiatal hila hilar hilum hyperinflated hyperinflation hypoinflated
image impression improved in increase increased increasing infection inferior infiltrate infiltrates inspiratory
interstitial interval into is jugular large lateral left lesion lesions level likely limits line linear lingula lobar
lobe lobes loculated low lower lung lungs major marked markedly markings mass masses medial mediastinal mediastinum
mid middle mild mildly minimal minor moderate moderately multifocal multiple narrowing nasogastric new no nodular
nodule nodules normal not noted obscured of on opacification opacities opacity or osseous over pacemaker parenchymal
patchy peribronchial perihilar peripheral persistent picc placement pleura pleural pneumomediastinum pneumonia
pneumothoraces pneumothorax port portable position possible posterior predominantly present probable process
prominence prominent pulmonary reticular retrocardiac rib ribs right round rounded scar scarring scattered seen severe
shadow shape shift side signs silhouette size small soft spinal spine square stable sternotomy subclavian subcutaneous
subsegmental subtle superior suspected swelling the thickened thickening thoracic thorax tip tissue to tortuous
trachea tracheal tube tubes unchanged under unremarkable upper vascular vascularity vein venous ventricle vessel
vessels view visible volume volumes wall well which widened widening with within without worsened worsening zone zones
"""

#: Words that are shown to people; all others of a report are not.  General words of chest radiology, none of a person.
KNOWN: tuple[str, ...] = tuple(_LISTED.split())


class Tokens(NamedTuple):
    """One text as numbers, of a length that all texts share.

    Parameters
    ----------
    ids
        Pieces: start, pieces of the words, stop, padding; ``length``.
    words
        Place of the word that each piece belongs to, start and stop counted as words; -1 for padding; ``length``.
    used
        How many places are the start and words of the text; a scalar.
    """

    ids: Tensor
    words: Tensor
    used: Tensor


class Tokeniser(ABC):
    """Turns text into pieces.

    Attributes
    ----------
    size
        Pieces that there are.
    padding, start, stop
        Numbers of the marks.
    unknown
        Number of the piece that stands for a word that cannot be cut; -1 where there is none.
    """

    size: int
    padding: int
    start: int
    stop: int
    unknown: int

    @abstractmethod
    def pieces(self, text: str) -> list[tuple[int, bool]]:
        """Cut a text: number of each piece, and whether it goes on with the word before."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Give what `tokeniser_from` makes the same tokeniser of, as plain values."""

    @abstractmethod
    def spelled(self, piece: int) -> str:
        """Spell a piece, without the mark of continuation; empty where its letters are not known."""

    def encode(self, text: str, length: int) -> Tokens:
        """Encode a text in `length` places; what does not fit is cut off before the stop.

        >>> HashedWords(8).encode("small effusion", 6).words.tolist()
        [0, 1, 2, 3, -1, -1]
        """
        pieces = self.pieces(text)[: length - 2]
        ids, words, place = [self.start], [0], 0
        for number, continues in pieces:
            place += not (continues and place)
            ids.append(number)
            words.append(place)
        rest = length - len(ids) - 1
        return Tokens(
            torch.tensor([*ids, self.stop, *[self.padding] * rest]),
            torch.tensor([*words, place + 1, *[-1] * rest]),
            torch.tensor(place + 1),
        )

    def tell(self, ids: Tensor, words: Tensor) -> list[str]:
        """Spell the words of one encoded text, by place; empty for marks and for what `KNOWN` does not hold."""
        told: dict[int, str] = {}
        for number, place in zip(ids.tolist(), words.tolist(), strict=True):
            if place >= 0:
                told[place] = told.get(place, "") + (self.spelled(number) or "\0")
        return [told[place] if told[place] in KNOWN else "" for place in range(len(told))]

    def continues(self, piece: int) -> bool:
        """Whether a piece goes on with the word before."""
        return False

    def told(self, ids: Tensor) -> list[str]:
        """Spell the words of pieces that were written one by one, up to the stop; empty for what `KNOWN` does not hold.

        >>> words = HashedWords(8)
        >>> words.told(words.encode("small lesion of mueller", 8).ids)
        ['small', 'lesion', 'of', '']
        """
        told: list[str] = []
        for piece in ids.tolist():
            if piece == self.stop:
                break
            if piece in (self.start, self.padding):
                continue
            text = self.spelled(piece) or "\0"
            if told and self.continues(piece):
                told[-1] += text
            else:
                told.append(text)
        return [word if word in KNOWN else "" for word in told]


class HashedWords(Tokeniser):
    """Every word is one piece: a number of its own for `KNOWN` words, for any other one of so many buckets.

    Words that share a bucket share their vector.

    Parameters
    ----------
    buckets
        For words that are not `KNOWN`.
    """

    padding: ClassVar[int] = 0  # type: ignore[misc]
    start: ClassVar[int] = 1  # type: ignore[misc]
    stop: ClassVar[int] = 2  # type: ignore[misc]
    unknown: ClassVar[int] = -1  # type: ignore[misc]
    _own: ClassVar[Mapping[str, int]] = MappingProxyType({w: n for n, w in enumerate(KNOWN, 3)})

    def __init__(self, buckets: int) -> None:
        self.buckets = buckets
        self.size = 3 + len(KNOWN) + buckets

    def pieces(self, text: str) -> list[tuple[int, bool]]:
        """Cut a text into words and punctuation."""
        return [(self._number(word), False) for word in split_words(text)]

    def describe(self) -> dict[str, Any]:
        """Give the number of buckets, and which words have numbers of their own."""
        return {"buckets": self.buckets, "known": _digest("\n".join(KNOWN))}

    def spelled(self, piece: int) -> str:
        """Spell a known word."""
        return KNOWN[piece - 3] if 3 <= piece < 3 + len(KNOWN) else ""

    def _number(self, word: str) -> int:
        own = self._own.get(word)
        if own is not None:
            return own
        return 3 + len(KNOWN) + _digest(word) % self.buckets


class WordPieces(Tokeniser):
    """The longest pieces of a published vocabulary, first to last; ``##`` marks those that go on with a word (BERT).

    Parameters
    ----------
    vocabulary
        Pieces by number, as in ``vocab.txt``.
    lower
        Whether text becomes lower-case without accents.

    Raises
    ------
    OptionError
        The vocabulary lacks a mark.
    """

    def __init__(self, vocabulary: Sequence[str], *, lower: bool = True) -> None:
        self.vocabulary = tuple(vocabulary)
        self.lower = lower
        self.size = len(self.vocabulary)
        self._number = {piece: number for number, piece in enumerate(self.vocabulary)}
        marks = ("[PAD]", "[CLS]", "[SEP]", "[UNK]")
        missing = [mark for mark in marks if mark not in self._number]
        if missing:
            raise OptionError(
                f"the vocabulary lacks {', '.join(missing)}", "Give a BERT model's own vocab.txt."
            )
        self.padding, self.start, self.stop, self.unknown = (self._number[mark] for mark in marks)

    def pieces(self, text: str) -> list[tuple[int, bool]]:
        """Cut every word greedily; a word that cannot be cut is one unknown piece."""
        return [piece for word in split_words(text, lower=self.lower) for piece in self._cut(word)]

    def describe(self) -> dict[str, Any]:
        """Give the published vocabulary."""
        return {"vocabulary": list(self.vocabulary), "lower": self.lower}

    def spelled(self, piece: int) -> str:
        """Spell a piece that is no mark."""
        text = self.vocabulary[piece]
        return "" if text.startswith("[") and text.endswith("]") else text.removeprefix("##")

    def continues(self, piece: int) -> bool:
        """Tell by the mark of continuation."""
        return self.vocabulary[piece].startswith("##")

    def _cut(self, word: str) -> list[tuple[int, bool]]:
        found: list[tuple[int, bool]] = []
        first = 0
        while first < len(word) <= _LONGEST_WORD:
            mark = "##" if first else ""
            ends = range(len(word), first, -1)
            last = next((end for end in ends if mark + word[first:end] in self._number), None)
            if last is None:
                break
            found.append((self._number[mark + word[first:last]], bool(first)))
            first = last
        return found if first == len(word) else [(self.unknown, False)]


def tokeniser_from(described: Mapping[str, Any]) -> Tokeniser:
    """Make the tokeniser that `Tokeniser.describe` tells of.

    Raises
    ------
    RunError
        It comes from a version that knew other words.
    """
    if "vocabulary" in described:
        return WordPieces(described["vocabulary"], lower=described["lower"])
    made = HashedWords(described["buckets"])
    if made.describe() != described:
        raise RunError(
            "the text encoder was trained by a version that numbered words otherwise",
            "Pretrain again, or use that version.",
        )
    return made


def _digest(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=7).digest(), "little")


def split_words(text: str, *, lower: bool = True) -> list[str]:
    """Split a text into words and single punctuation marks.

    >>> split_words("No œdema, 3.5 cm.")
    ['no', 'œdema', ',', '3', '.', '5', 'cm', '.']
    """
    if lower:
        apart = unicodedata.normalize("NFD", text.lower())
        text = "".join(letter for letter in apart if unicodedata.category(letter) != "Mn")
    return _SPLIT.findall(text)
