"""The text encoder: BERT's layers, its files, and words merged from pieces."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from unlabeled.errors import OptionError, RunError
from unlabeled.nn.text import (
    TextEncoder,
    TextShape,
    last_levels,
    merge_words,
    read_bert,
    text_encoder,
)
from unlabeled.nn.tokens import HashedWords

SHAPE = TextShape(width=12, layers=5, heads=3, hidden=20, positions=16)


def small(seed: int = 0) -> TextEncoder:
    torch.manual_seed(seed)
    made = TextEncoder(HashedWords(32), SHAPE).eval()
    for weights in made.parameters():
        weights.data += 0.1 * torch.randn_like(weights)
    return made


def published(encoder: TextEncoder) -> dict[str, torch.Tensor]:
    """The encoder's tensors under the names of published BERT files."""
    names = {
        "pieces.weight": "embeddings.word_embeddings.weight",
        "positions.weight": "embeddings.position_embeddings.weight",
        "kinds.weight": "embeddings.token_type_embeddings.weight",
        "norm.weight": "embeddings.LayerNorm.gamma",
        "norm.bias": "embeddings.LayerNorm.beta",
    }
    inner = {
        **{part: f"attention.self.{part}" for part in ("query", "key", "value")},
        "attended": "attention.output.dense",
        "norm_attended": "attention.output.LayerNorm",
        "widen": "intermediate.dense",
        "narrow": "output.dense",
        "norm": "output.LayerNorm",
    }
    for number in range(len(encoder.layers)):
        for ours, theirs in inner.items():
            for kind in ("weight", "bias"):
                names[f"layers.{number}.{ours}.{kind}"] = f"encoder.layer.{number}.{theirs}.{kind}"
    state = encoder.state_dict()
    assert set(names) == set(state) - {"about"}
    return {f"bert.{names[name]}": state[name].clone() for name in names}


def write_bert(folder, encoder: TextEncoder, **config) -> None:
    words = [f"w{number}" for number in range(encoder.tokeniser.size - 4)]
    (folder / "vocab.txt").write_text(
        "\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *words]) + "\n"
    )
    shape = encoder.shape
    told = {
        "model_type": "bert",
        "hidden_size": shape.width,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "intermediate_size": shape.hidden,
        "max_position_embeddings": shape.positions,
        **config,
    }
    (folder / "config.json").write_text(json.dumps(told))
    save_file(published(encoder), folder / "model.safetensors")


def test_padding_changes_nothing():
    encoder = small()
    ids = torch.tensor([[1, 7, 8, 2]])
    longer = torch.cat([ids, torch.zeros(1, 5, dtype=torch.long)], 1)
    for short, long in zip(encoder(ids), encoder(longer), strict=True):
        assert torch.allclose(short, long[:, :4], atol=1e-5)


def test_states_are_the_embedding_and_every_layer():
    states = small()(torch.tensor([[1, 7, 2]]))
    assert len(states) == 6
    assert all(state.shape == (1, 3, 12) for state in states)


def test_merged_pieces_match_the_published_code(golden):
    arrays = np.load(golden / "gloria" / "token_aggregation.npz")
    # "##" pieces 6, 8, 9 belong to the word before; 0 is padding
    words = torch.tensor([[0, 1, 2, 3, 3, 4, -1, -1, -1, -1], [0, 1, 1, 1, 2, 3, -1, -1, -1, -1]])
    vectors = torch.from_numpy(arrays["embeddings"])
    np.testing.assert_allclose(merge_words(vectors, words), arrays["aggregated"], atol=1e-5)
    states = [torch.zeros(1), *vectors.unbind(1)]
    summed = last_levels(states, words)
    np.testing.assert_allclose(summed, arrays["word_embedding_sum_last4"], atol=1e-5)
    np.testing.assert_allclose(summed.mean(1), arrays["sentence_embedding"], atol=1e-5)


def test_a_published_folder_is_read(tmp_path):
    theirs = small(1)
    write_bert(tmp_path, theirs)
    read = read_bert(tmp_path).eval()
    ids = torch.tensor([[2, 9, 10, 3]])
    for ours, expected in zip(read(ids), theirs(ids), strict=True):
        assert torch.equal(ours, expected)
    assert read.tokeniser.encode("w0 W3", 6).ids.tolist() == [2, 4, 7, 3, 0, 0]


def test_an_encoder_comes_back_from_its_own_buffer(tmp_path):
    write_bert(tmp_path, small())
    for encoder in (small(), read_bert(tmp_path)):
        again = TextEncoder.like(encoder.about)
        again.load_state_dict(encoder.state_dict())
        assert again.shape == encoder.shape
        assert again.tokeniser.pieces("w3 w9") == encoder.tokeniser.pieces("w3 w9")


@pytest.mark.parametrize(
    ("broken", "fact"),
    [
        (lambda f: (f / "config.json").unlink(), r"holds no config.json"),
        (lambda f: (f / "config.json").write_text("{"), r"config.json cannot be read"),
        (lambda f: (f / "config.json").write_text("[]"), r"holds no settings"),
        (
            lambda f: (f / "config.json").write_text('{"model_type": "gpt2"}'),
            r"no BERT model \(gpt2\)",
        ),
        (lambda f: (f / "vocab.txt").unlink(), r"vocab.txt cannot be read"),
        (lambda f: (f / "model.safetensors").unlink(), r"neither model.safetensors nor"),
        (lambda f: (f / "model.safetensors").write_bytes(b"abc"), r"no weights file"),
    ],
)
def test_broken_folders_are_named(tmp_path, broken, fact):
    write_bert(tmp_path, small())
    broken(tmp_path)
    with pytest.raises(RunError, match=fact):
        read_bert(tmp_path)


def test_missing_tensors_are_named(tmp_path):
    write_bert(tmp_path, small(), num_hidden_layers=6)
    with pytest.raises(RunError, match="does not hold every tensor"):
        read_bert(tmp_path)


def test_a_folder_with_too_few_positions_is_refused(tmp_path):
    write_bert(tmp_path, small())
    sizes = {"width": 8, "layers": 1, "heads": 1}
    with pytest.raises(OptionError, match="reads 16 pieces") as fault:
        text_encoder(str(tmp_path), **sizes, positions=20)
    assert "--words 16" in fault.value.remedy
    assert text_encoder(str(tmp_path), **sizes, positions=16).shape.width == 12


def test_heads_must_divide_the_width():
    with pytest.raises(OptionError, match="12 numbers"):
        TextShape(width=12, layers=1, heads=5, hidden=8, positions=4)


def test_equals_the_library_of_published_models(tmp_path):
    """Where transformers is installed: every state of a random BERT, from the folder that it saves."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=40,
        hidden_size=24,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=48,
        max_position_embeddings=32,
    )
    theirs = transformers.BertModel(config).eval()
    theirs.save_pretrained(tmp_path)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *(f"w{number}" for number in range(36))]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    ids = torch.tensor([[2, 9, 10, 3, 0], [2, 9, 3, 0, 0]])
    expected = theirs(ids, attention_mask=(ids > 0).long(), output_hidden_states=True).hidden_states
    for state, other in zip(read_bert(tmp_path).eval()(ids), expected, strict=True):
        assert torch.allclose(state[ids > 0], other[ids > 0], atol=1e-4)
