"""A report's vector: padding does not matter, and a published pooler is read."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from unlabeled.nn.report_encoder import report_encoder

SIZES = {"width": 8, "layers": 1, "heads": 2, "positions": 12}


def test_padding_does_not_matter():
    torch.manual_seed(0)
    made = report_encoder("", 6, **SIZES).eval()
    ids = torch.tensor([[1, 5, 6, 2, 0, 0]])
    beside = torch.tensor([[1, 5, 6, 2, 0, 0], [1, 5, 7, 8, 9, 2]])
    with torch.no_grad():
        alone, other = made(ids), made(beside)
    assert alone.shape == (1, 6)
    torch.testing.assert_close(alone[0], other[0])
    assert not torch.allclose(other[0], other[1])


def published(folder: Path, *, pooler: bool) -> str:
    """Write a small BERT as it is published."""
    made = report_encoder("", 6, **SIZES).text
    words = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "small"]
    width = 8
    tensors = {
        "embeddings.word_embeddings.weight": torch.randn(len(words), width),
        "embeddings.position_embeddings.weight": made.positions.weight.detach(),
        "embeddings.token_type_embeddings.weight": made.kinds.weight.detach(),
        "embeddings.LayerNorm.weight": torch.ones(width),
        "embeddings.LayerNorm.bias": torch.zeros(width),
    }
    names = {
        "query": "attention.self.query",
        "key": "attention.self.key",
        "value": "attention.self.value",
        "attended": "attention.output.dense",
        "norm_attended": "attention.output.LayerNorm",
        "widen": "intermediate.dense",
        "narrow": "output.dense",
        "norm": "output.LayerNorm",
    }
    for ours, theirs in names.items():
        for name, value in made.layers[0].get_submodule(ours).state_dict().items():
            tensors[f"encoder.layer.0.{theirs}.{name}"] = value.clone()
    if pooler:
        tensors |= {
            "pooler.dense.weight": torch.full((width, width), 0.5),
            "pooler.dense.bias": torch.full((width,), 0.25),
        }
    save_file(
        {f"bert.{name}": value.contiguous() for name, value in tensors.items()},
        folder / "model.safetensors",
    )
    about = {"model_type": "bert", "hidden_size": width, "num_hidden_layers": 1}
    about |= {"num_attention_heads": 2, "intermediate_size": 32, "max_position_embeddings": 12}
    (folder / "config.json").write_text(json.dumps(about))
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    return str(folder)


def test_a_published_pooler_is_read(tmp_path):
    for pooler in (True, False):
        place = tmp_path / str(pooler)
        place.mkdir()
        made = report_encoder(published(place, pooler=pooler), 6, **SIZES)
        assert bool((made.pooler.weight == 0.5).all()) == pooler
        assert bool((made.pooler.bias == 0.25).all()) == pooler
        assert made.tokeniser.size == 5
