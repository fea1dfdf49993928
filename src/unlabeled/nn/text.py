"""A text encoder: BERT's layers, small and from scratch or with the weights of a published folder."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unlabeled.errors import OptionError, RunError
from unlabeled.nn.tokens import HashedWords, Tokeniser, WordPieces, tokeniser_from
from unlabeled.nn.weights import load_weights, read_weights

BUCKETS = (
    8192  # for words that are not `KNOWN` (ours): of 500 such words, one in 17 shares its bucket
)
_REMEDY = "Give the folder of a BERT model: config.json, vocab.txt and model.safetensors or pytorch_model.bin."
#: Names of BERT's tensors in published files, and ours.
_PUBLISHED = (
    (r"^bert\.", ""),
    (r"^embeddings\.word_embeddings\.weight$", "pieces.weight"),
    (r"^embeddings\.position_embeddings\.weight$", "positions.weight"),
    (r"^embeddings\.token_type_embeddings\.weight$", "kinds.weight"),
    (r"^embeddings\.LayerNorm\.", "norm."),
    (r"^encoder\.layer\.(\d+)\.attention\.self\.(query|key|value)\.", r"layers.\1.\2."),
    (r"^encoder\.layer\.(\d+)\.attention\.output\.dense\.", r"layers.\1.attended."),
    (r"^encoder\.layer\.(\d+)\.attention\.output\.LayerNorm\.", r"layers.\1.norm_attended."),
    (r"^encoder\.layer\.(\d+)\.intermediate\.dense\.", r"layers.\1.widen."),
    (r"^encoder\.layer\.(\d+)\.output\.dense\.", r"layers.\1.narrow."),
    (r"^encoder\.layer\.(\d+)\.output\.LayerNorm\.", r"layers.\1.norm."),
    (r"\.gamma$", ".weight"),
    (r"\.beta$", ".bias"),
)
_NEEDED = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")


@dataclass(frozen=True, kw_only=True)
class TextShape:
    """Sizes of a text encoder.

    Parameters
    ----------
    width
        Length of a vector.
    layers
        Transformer layers.
    heads
        Attention heads of a layer.
    hidden
        Length of the vector inside a layer; four widths in BERT.
    positions
        Most pieces of a text.
    p_dropout
        Probability to drop a number in training.
    epsilon
        Of the normalisations.
    """

    width: int
    layers: int
    heads: int
    hidden: int
    positions: int
    p_dropout: float = 0.1
    epsilon: float = 1e-12

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise OptionError(
                f"vectors of {self.width} numbers cannot be shared by {self.heads} attention heads",
                f"Give a width that is a multiple of {self.heads}.",
            )


class TextEncoder(nn.Module):
    """BERT (Devlin et al., NAACL 2019) without its pooler: post-norm transformer layers on pieces and positions.

    Parameters
    ----------
    tokeniser
        Whose pieces come in.
    shape
        Sizes.

    Attributes
    ----------
    about
        Sizes and tokeniser as JSON, in a buffer: weights that were saved tell how to read text with them.
    """

    def __init__(self, tokeniser: Tokeniser, shape: TextShape) -> None:
        super().__init__()
        self.tokeniser = tokeniser
        self.shape = shape
        self.pieces = nn.Embedding(tokeniser.size, shape.width)
        self.positions = nn.Embedding(shape.positions, shape.width)
        self.kinds = nn.Embedding(2, shape.width)
        self.norm = nn.LayerNorm(shape.width, eps=shape.epsilon)
        self.dropout = nn.Dropout(shape.p_dropout)
        self.layers = nn.ModuleList(_Layer(shape) for _ in range(shape.layers))
        self.apply(_initialise)
        about = {"shape": asdict(shape), "tokeniser": tokeniser.describe()}
        self.register_buffer("about", as_buffer(about))

    @classmethod
    def like(cls, about: Tensor) -> TextEncoder:
        """Make an encoder with fresh weights of the sizes and with the tokeniser of a saved one, from its buffer."""
        told = from_buffer(about)
        return cls(tokeniser_from(told["tokeniser"]), TextShape(**told["shape"]))

    def forward(self, ids: Tensor) -> list[Tensor]:
        """Compute the hidden states ``batch piece width``: of the embedding, then of every layer.

        Parameters
        ----------
        ids
            ``batch piece``; padding is attended to by nobody.
        """
        seen = ids != self.tokeniser.padding
        state = self.pieces(ids) + self.positions.weight[: ids.shape[1]] + self.kinds.weight[0]
        states = [self.dropout(self.norm(state))]
        for layer in self.layers:
            states.append(layer(states[-1], seen[:, None, None]))
        return states


class _Layer(nn.Module):
    """Attention and two linear layers, each added to its input and normalised."""

    def __init__(self, shape: TextShape) -> None:
        super().__init__()
        width = shape.width
        self.heads, self.p_dropout = shape.heads, shape.p_dropout
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.attended = nn.Linear(width, width)
        self.norm_attended = nn.LayerNorm(width, eps=shape.epsilon)
        self.widen = nn.Linear(width, shape.hidden)
        self.narrow = nn.Linear(shape.hidden, width)
        self.norm = nn.LayerNorm(width, eps=shape.epsilon)
        self.dropout = nn.Dropout(shape.p_dropout)

    def forward(self, state: Tensor, seen: Tensor) -> Tensor:
        """Compute ``batch piece width``; `seen`, ``batch 1 1 piece``, are the pieces attended to."""
        query, key, value = (
            each(state).unflatten(2, (self.heads, -1)).transpose(1, 2)
            for each in (self.query, self.key, self.value)
        )
        p_dropout = self.p_dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(
            query, key, value, attn_mask=seen, dropout_p=p_dropout
        )
        attended = self.attended(mixed.transpose(1, 2).flatten(2))
        state = self.norm_attended(state + self.dropout(attended))
        thought = self.narrow(F.gelu(self.widen(state)))
        out: Tensor = self.norm(state + self.dropout(thought))
        return out


def _initialise(module: nn.Module) -> None:
    """Draw weights as BERT does: normal with deviation 0.02, biases zero."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)


def as_buffer(plain: Mapping[str, Any]) -> Tensor:
    """Write plain values as JSON into a tensor of bytes, which is saved and loaded as weights are."""
    return torch.frombuffer(bytearray(json.dumps(plain).encode()), dtype=torch.uint8)


def from_buffer(buffer: Tensor) -> dict[str, Any]:
    """Read what `as_buffer` wrote.

    >>> from_buffer(as_buffer({"edge": 256}))
    {'edge': 256}
    """
    plain: dict[str, Any] = json.loads(bytes(buffer.cpu().tolist()))
    return plain


def merge_words(vectors: Tensor, words: Tensor) -> Tensor:
    """Sum the vectors of the pieces of each word.

    Parameters
    ----------
    vectors
        ``batch *any piece width``.
    words
        Place of the word that each piece belongs to, -1 for padding: ``batch piece`` (`Tokens.words`).

    Returns
    -------
    Tensor
        ``batch *any piece width``: as many places as there were, zeros after the last word.

    >>> merge_words(torch.tensor([[[1.0], [2.0], [4.0], [8.0]]]), torch.tensor([[0, 1, 1, -1]]))
    tensor([[[1.], [6.], [0.], [0.]]])
    """
    places = torch.arange(words.shape[1], device=words.device)
    belongs = (words[:, None] == places[:, None]).to(vectors.dtype)  # batch word piece
    between = [1] * (vectors.ndim - 3)
    return belongs.view(len(words), *between, *belongs.shape[1:]) @ vectors


def last_levels(states: list[Tensor], words: Tensor, levels: int = 4) -> Tensor:
    """Add up the last hidden states, words merged: ``batch word width``, zeros after the last word.

    Source: official code of GLoRIA, which sums the last four.
    """
    return merge_words(torch.stack(states[-levels:], 1).sum(1), words)


def read_bert(folder: Path | str) -> TextEncoder:
    """Read a BERT model from the folder in which it is published.

    Parameters
    ----------
    folder
        With ``config.json``, ``vocab.txt`` and ``model.safetensors`` or ``pytorch_model.bin``.

    Raises
    ------
    RunError
        A file is absent or damaged, it is no BERT model, or tensors are missing.
    """
    folder = Path(folder)
    config = _read_json(folder, "config.json", needed=True)
    lacks = [name for name in _NEEDED if not isinstance(config.get(name), int)]
    if config.get("model_type", "bert") != "bert" or lacks:
        kind = config.get("model_type") or f"lacks {', '.join(lacks)}"
        raise RunError(f"{folder}/config.json is of no BERT model ({kind})", _REMEDY)
    lower = _read_json(folder, "tokenizer_config.json", needed=False).get("do_lower_case", True)
    try:
        text = (folder / "vocab.txt").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as fault:
        raise RunError(f"{folder}/vocab.txt cannot be read", _REMEDY) from fault
    tokeniser = WordPieces(text.removesuffix("\n").split("\n"), lower=bool(lower))
    found = bert_weights(folder)
    encoder = TextEncoder(
        tokeniser,
        TextShape(
            width=config["hidden_size"],
            layers=config["num_hidden_layers"],
            heads=config["num_attention_heads"],
            hidden=config["intermediate_size"],
            positions=config.get("max_position_embeddings", 512),
            p_dropout=config.get("hidden_dropout_prob", 0.1),
            epsilon=config.get("layer_norm_eps", 1e-12),
        ),
    )
    report = load_weights(encoder, our_names(read_weights(found)[0]), source=str(found), least=0.0)
    if [name for name in report.missing if not name.startswith("about ")]:
        raise RunError(f"{found} does not hold every tensor of its model: {report}", _REMEDY)
    return encoder


def bert_weights(folder: Path | str) -> Path:
    """Find the file of tensors in the folder of a published model.

    Raises
    ------
    RunError
        There is none.
    """
    weights = [Path(folder) / name for name in ("model.safetensors", "pytorch_model.bin")]
    found = next((path for path in weights if path.is_file()), None)
    if found is None:
        raise RunError(f"{folder} holds neither {weights[0].name} nor {weights[1].name}", _REMEDY)
    return found


def text_encoder(
    folder: str, *, width: int, layers: int, heads: int, positions: int
) -> TextEncoder:
    """Read the encoder of a folder, or make a small one for hashed words where none is named.

    Raises
    ------
    OptionError
        The folder's model takes fewer positions, or heads do not divide the width.
    """
    if folder:
        read = read_bert(folder)
        if read.shape.positions < positions:
            raise OptionError(
                f"the model of {folder} reads {read.shape.positions} pieces, not {positions}",
                f"Give --words {read.shape.positions}.",
            )
        return read
    shape = TextShape(
        width=width, layers=layers, heads=heads, hidden=4 * width, positions=positions
    )
    return TextEncoder(HashedWords(BUCKETS), shape)


def our_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the tensors of a published BERT.

    >>> list(our_names({"bert.encoder.layer.3.attention.self.key.bias": torch.zeros(1)}))
    ['layers.3.key.bias']
    """
    named = {}
    for name, tensor in tensors.items():
        for pattern, ours in _PUBLISHED:
            name = re.sub(pattern, ours, name)
        named[name] = tensor
    return named


def _read_json(folder: Path, name: str, *, needed: bool) -> dict[str, Any]:
    try:
        content = json.loads((folder / name).read_text(encoding="utf-8"))
    except FileNotFoundError as fault:
        if not needed:
            return {}
        raise RunError(f"{folder} holds no {name}", _REMEDY) from fault
    except (OSError, ValueError) as fault:
        raise RunError(f"{folder / name} cannot be read", _REMEDY) from fault
    if not isinstance(content, dict):
        raise RunError(f"{folder / name} holds no settings", _REMEDY)
    return content
