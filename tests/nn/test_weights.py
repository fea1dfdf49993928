"""Saving and loading weights: bit for bit, reported, adapted by rule, refused when they do not fit."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from unlabeled.data.intensity import IntensityRule
from unlabeled.errors import RunError
from unlabeled.nn.adaptation import adapt, inflate_kernel, spread_channels
from unlabeled.nn.agreement import agreement, require_agreement
from unlabeled.nn.decoders import build_decoder
from unlabeled.nn.encoders import Encoder, build_encoder
from unlabeled.nn.weights import (
    load_encoder,
    load_weights,
    read_weights,
    save_encoder,
    write_atomically,
)


def tiny(dims: int = 2, in_channels: int = 1, seed: int = 0) -> Encoder:
    torch.manual_seed(seed)
    encoder = build_encoder("resenc-tiny", dims=dims, in_channels=in_channels)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return encoder


def same(one: nn.Module, other: nn.Module) -> bool:
    first, second = one.state_dict(), other.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


class Bag(nn.Module):
    """Any tensors, as buffers."""

    def __init__(self, tensors: list[Tensor]) -> None:
        super().__init__()
        for place, tensor in enumerate(tensors):
            self.register_buffer(f"t{place}", tensor)


KINDS = st.sampled_from([torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64])
SHAPES = st.lists(st.integers(0, 4), max_size=3)


@settings(max_examples=25, deadline=None)
@given(
    tensors=st.lists(st.tuples(KINDS, SHAPES, st.integers(0, 2**31)), min_size=1, max_size=4),
    transposed=st.booleans(),
)
def test_what_is_saved_comes_back_bit_for_bit(
    tmp_path_factory: pytest.TempPathFactory,
    tensors: list[tuple[torch.dtype, list[int], int]],
    transposed: bool,
) -> None:
    made = []
    for kind, shape, seed in tensors:
        rng = torch.Generator().manual_seed(seed)
        raw = torch.randint(-(2**31), 2**31, shape, generator=rng)
        made.append((raw.mT if transposed and raw.ndim > 1 else raw).to(kind))
    path = tmp_path_factory.mktemp("bag") / "w.safetensors"
    save_encoder(path, {"bag": Bag(made)}, {"slug": "any", "spacing": [1.0, 0.5], "n": None})
    found, metadata = read_weights(path)
    assert metadata.items() >= {"slug": "any", "spacing": [1.0, 0.5], "n": None}.items()
    for place, tensor in enumerate(made):
        back = found[f"bag.t{place}"]
        assert back.dtype == tensor.dtype
        assert torch.equal(back, tensor)
    empty = Bag([torch.zeros_like(tensor) for tensor in made])
    report = load_weights(empty, found)
    assert report.prefix == "bag."
    assert not report.missing
    assert all(torch.equal(getattr(empty, f"t{i}"), tensor) for i, tensor in enumerate(made))


def test_an_encoder_is_rebuilt_from_its_file_alone(tmp_path: Path) -> None:
    encoder = tiny(dims=3, in_channels=2)
    encoder.to(memory_format=torch.channels_last_3d)
    decoder = build_decoder(encoder, out_channels=1)
    save_encoder(
        tmp_path / "encoder.safetensors", {"encoder": encoder, "decoder": decoder}, {"slug": "s"}
    )
    again, metadata = load_encoder(tmp_path)
    assert same(encoder, again)
    assert not again.training
    assert metadata["dims"] == 3
    assert metadata["channels"] == 2
    assert metadata["encoder"] == "resenc-tiny"
    assert metadata["version"]


def test_the_metadata_is_json_in_the_header(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_encoder(path, {"encoder": tiny()}, {"slug": "models-genesis"})
    with safe_open(path, framework="pt") as stream:
        assert json.loads(stream.metadata()["unlabeled"])["slug"] == "models-genesis"


def test_saving_replaces_the_file_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "w.safetensors"
    save_encoder(path, {"encoder": tiny()}, {})
    before = path.read_bytes()

    def fill_the_disk(draft: Path) -> None:
        draft.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    with pytest.raises(RunError, match="No space left"):
        write_atomically(path, fill_the_disk)
    assert path.read_bytes() == before
    assert [one.name for one in path.parent.iterdir()] == ["w.safetensors"]


def test_metadata_that_json_does_not_know_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="cannot be written as JSON"):
        save_encoder(tmp_path / "w", {"encoder": tiny()}, {"spacing": float("nan")})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("prefix", ["", "module.", "encoder.", "_orig_mod.module.student.encoder."])
def test_whatever_stands_before_the_names_is_found(prefix: str) -> None:
    source, target = tiny(seed=1), tiny(seed=2)
    named = {prefix + name: value for name, value in source.state_dict().items()}
    report = load_weights(target, {**named, "head.weight": torch.zeros(2)})
    assert same(source, target)
    assert report.share == 1
    assert report.unexpected == ("head.weight 2",)


def test_of_two_copies_the_learner_is_taken() -> None:
    learner, copy, target = tiny(seed=1), tiny(seed=2), tiny(seed=3)
    both = {f"teacher.{name}": value for name, value in copy.state_dict().items()}
    both |= {f"a_longer_student.{name}": value for name, value in learner.state_dict().items()}
    assert load_weights(target, both).prefix == "a_longer_student."
    assert same(learner, target)


def test_the_report_names_every_tensor_once() -> None:
    source, target = tiny(seed=1, in_channels=3), tiny(seed=2)
    state = dict(source.state_dict())
    del state["stages.0.blocks.0.conv1.conv.bias"]
    state["stages.1.blocks.0.conv1.conv.weight"] = torch.zeros(32, 16, 5, 5)
    state["fc.weight"] = torch.zeros(10, 64)
    before = target.state_dict()["stages.1.blocks.0.conv1.conv.weight"].clone()
    report = load_weights(target, state)
    assert report.missing == (
        "stages.0.blocks.0.conv1.conv.bias 16",
        "stages.1.blocks.0.conv1.conv.weight 32x16x3x3, in the file 32x16x5x5",
    )
    assert [one.name for one in report.adapted] == ["stem.convs.0.conv.weight"]
    assert report.unexpected == ("fc.weight 10x64",)
    assert len(report.matched) + len(report.adapted) + len(report.missing) == len(
        target.state_dict()
    )
    assert torch.equal(target.state_dict()["stages.1.blocks.0.conv1.conv.weight"], before)
    assert "1 adapted, 2 missing, 1 unexpected" in str(report)
    assert any("image channels summed" in line for line in report.lines())


def test_a_poor_match_is_refused_and_changes_nothing() -> None:
    target = tiny()
    before = {name: value.clone() for name, value in target.state_dict().items()}
    few = {
        name: value for name, value in tiny(seed=9).state_dict().items() if "stages.3" not in name
    }
    with pytest.raises(RunError, match="does not fit resenc-tiny") as refused:
        load_weights(target, few)
    assert refused.value.exit_code == 2
    assert all(torch.equal(value, before[name]) for name, value in target.state_dict().items())
    assert load_weights(target, few, least=0.1).share > 0.1
    other = build_encoder("resnet18", dims=2).state_dict()
    with pytest.raises(RunError, match="0 tensors matched"):
        load_weights(target, other)


def test_many_small_tensors_do_not_make_up_for_the_large_ones() -> None:
    """Biases and norms alone are most of the names and few of the numbers."""
    vectors = {name: value for name, value in tiny().state_dict().items() if value.ndim == 1}
    with pytest.raises(RunError):
        load_weights(tiny(), vectors)


@settings(max_examples=20, deadline=None)
@given(theirs=st.integers(1, 4), ours=st.integers(1, 4), seed=st.integers(0, 2**31))
def test_equal_channels_get_the_response_they_had(theirs: int, ours: int, seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    kernel = torch.randn(5, theirs, 3, 3, generator=rng, dtype=torch.float64)
    grey = torch.randn(1, 1, 8, 8, generator=rng, dtype=torch.float64)
    before = nn.functional.conv2d(grey.expand(-1, theirs, -1, -1), kernel)
    after = nn.functional.conv2d(grey.expand(-1, ours, -1, -1), spread_channels(kernel, ours))
    torch.testing.assert_close(after, before)


def test_an_image_constant_along_the_last_axis_gets_the_response_of_2d() -> None:
    rng = torch.Generator().manual_seed(0)
    kernel, flat = torch.randn(4, 2, 3, 3, generator=rng), torch.randn(1, 2, 9, 9, generator=rng)
    solid = flat[..., None].expand(-1, -1, -1, -1, 7)
    after = nn.functional.conv3d(solid, inflate_kernel(kernel, 3))
    before = nn.functional.conv2d(flat, kernel)
    torch.testing.assert_close(after, before[..., None].expand_as(after))


def test_2d_weights_enter_a_3d_network_unless_forbidden() -> None:
    flat, solid = tiny(dims=2, in_channels=3, seed=1), tiny(dims=3, seed=2)
    report = load_weights(solid, flat.state_dict())
    assert not report.missing
    assert report.share == 1
    rules = {one.name: one.rule for one in report.adapted}
    assert rules["stem.convs.0.conv.weight"] == (
        "3 image channels summed, divided evenly among 1; 2D kernel repeated along the last axis, divided by its length"
    )
    with pytest.raises(RunError):
        load_weights(solid, flat.state_dict(), inflate=False)


def test_channels_of_other_layers_are_never_adapted() -> None:
    kernel = torch.zeros(8, 3, 3, 3)
    assert adapt("stages.0.conv.weight", kernel, (8, 1, 3, 3), entry=False, inflate=True) is None
    assert adapt("stem.weight", kernel, (4, 1, 3, 3), entry=True, inflate=True) is None


def test_positions_of_another_picture_size_are_interpolated() -> None:
    torch.manual_seed(0)
    target = build_encoder("vit-tiny", dims=2)
    state = dict(target.state_dict())
    state["pos_embed"] = torch.ones(1, 1 + 24 * 24, 192)
    report = load_weights(target, state)
    assert [one.rule for one in report.adapted] == [
        "positions interpolated from 24x24 to 14x14 tokens"
    ]
    torch.testing.assert_close(target.state_dict()["pos_embed"], torch.ones(1, 197, 192))


class TestForeignFiles:
    def test_plain_safetensors(self, tmp_path: Path) -> None:
        source, target = tiny(seed=1), tiny(seed=2)
        save_file(source.state_dict(), tmp_path / "plain.bin")
        assert read_weights(tmp_path / "plain.bin")[1] == {}
        load_weights(target, tmp_path / "plain.bin")
        assert same(source, target)

    @pytest.mark.parametrize("nest", [None, "state_dict", "model", "network_weights"])
    def test_torch_checkpoints(self, tmp_path: Path, nest: str | None) -> None:
        source, target = tiny(seed=1), tiny(seed=2)
        state: dict[str, Any] = {f"module.{k}": v for k, v in source.state_dict().items()}
        content = state if nest is None else {nest: state, "epoch": 3, "optimizer": {"lr": 0.1}}
        torch.save(content, tmp_path / "c.pth")
        load_weights(target, tmp_path / "c.pth")
        assert same(source, target)

    def test_nnunet_checkpoints_with_their_log_and_second_names(self, tmp_path: Path) -> None:
        source, target = tiny(seed=1), tiny(seed=2)
        state = {}
        for name, value in source.state_dict().items():
            state[f"encoder.{name}"] = state[f"decoder.encoder.{name}"] = value
            alias = name.replace("conv.w", "all_modules.0.w").replace("norm.", "all_modules.1.")
            state[f"encoder.{alias}"] = state[f"decoder.encoder.{alias}"] = value
        content = {
            "network_weights": state,
            "logging": {"mean_fg_dice": [np.float64(0.5), np.float32(0.25)]},
            "init_args": {"device": torch.device("cpu"), "fold": 0},
            "_best_ema": np.float64(0.7),
        }
        torch.save(content, tmp_path / "checkpoint_final.pth")
        report = load_weights(target, tmp_path / "checkpoint_final.pth")
        assert same(source, target)
        assert report.unexpected == ()

    def test_torchvision_names(self, tmp_path: Path) -> None:
        torch.manual_seed(1)
        rgb = build_encoder("resnet18", dims=2, in_channels=3).state_dict()
        torch.save({**rgb, "fc.weight": torch.zeros(1000, 512)}, tmp_path / "resnet18.pth")
        target = build_encoder("resnet18", dims=2)
        report = load_weights(target, tmp_path / "resnet18.pth")
        assert report.share == 1
        assert [one.name for one in report.adapted] == ["conv1.weight"]
        torch.testing.assert_close(
            target.state_dict()["conv1.weight"], rgb["conv1.weight"].sum(1, keepdim=True)
        )

    def test_code_is_never_run(self, tmp_path: Path) -> None:
        class Trap:
            def __reduce__(self) -> Any:
                return (Path.touch, (tmp_path / "sprung",))

        torch.save({"state_dict": {"w": torch.zeros(1)}, "trap": Trap()}, tmp_path / "trap.pt")
        (tmp_path / "old.pkl").write_bytes(pickle.dumps(Trap()))
        for name in ("trap.pt", "old.pkl"):
            with pytest.raises(RunError):
                read_weights(tmp_path / name)
        assert not (tmp_path / "sprung").exists()

    @pytest.mark.parametrize(
        "content",
        [b"", b"\0", b"no weights at all", b"PK\x03\x04 torn", b"\x80\x02}q\0.", b"\xff" * 64,
         (64).to_bytes(8, "little") + b"{" + b" " * 10],
    )  # fmt: skip
    def test_damaged_files_are_named(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "bad").write_bytes(content)
        with pytest.raises(RunError, match="bad"):
            read_weights(tmp_path / "bad")

    @pytest.mark.parametrize("cut", [0.1, 0.5, 0.99])
    @pytest.mark.parametrize("suffix", ["safetensors", "pt"])
    def test_truncated_files_are_named(self, tmp_path: Path, suffix: str, cut: float) -> None:
        path = tmp_path / f"w.{suffix}"
        if suffix == "pt":
            torch.save(tiny().state_dict(), path)
        else:
            save_encoder(path, {"encoder": tiny()}, {})
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * cut)])
        with pytest.raises(RunError, match=r"w\."):
            read_weights(path)

    def test_absent_files_and_empty_runs_are_named(self, tmp_path: Path) -> None:
        with pytest.raises(RunError, match="No such file"):
            read_weights(tmp_path / "nowhere.pt")
        with pytest.raises(RunError, match=r"holds no encoder\.safetensors"):
            read_weights(tmp_path)
        torch.save({"epoch": 3}, tmp_path / "empty.pt")
        with pytest.raises(RunError, match="holds no tensors"):
            read_weights(tmp_path / "empty.pt")

    def test_a_file_without_metadata_cannot_be_rebuilt(self, tmp_path: Path) -> None:
        save_file(tiny().state_dict(), tmp_path / "w")
        with pytest.raises(RunError, match="does not say which encoder"):
            load_encoder(tmp_path / "w")

    def test_an_incomplete_file_cannot_be_rebuilt(self, tmp_path: Path) -> None:
        whole = nn.ModuleDict({"stem": tiny().get_submodule("stem")})
        save_encoder(
            tmp_path / "w",
            {"encoder": whole},
            {"encoder": "resenc-tiny", "dims": 2, "channels": 1},
        )
        with pytest.raises(RunError, match="does not hold every tensor"):
            load_encoder(tmp_path / "w")


FACTS = {
    "encoder": "unet",
    "dims": 3,
    "channels": 1,
    "spacing": [1.0, 1.0, 2.0],
    "orientation": "RAS",
    "intensity": IntensityRule().as_metadata(),
}


class TestAgreement:
    def test_equal_facts_agree_after_a_round_through_json(self) -> None:
        assert agreement(json.loads(json.dumps(FACTS)), FACTS) == []

    @pytest.mark.parametrize(
        ("changed", "severity", "said"),
        [
            ({"encoder": "vit"}, "fault", "they belong to unet, and vit was asked for"),
            ({"orientation": "LPS"}, "fault", "RAS order, and these are in LPS"),
            ({"dims": 2}, "fault", "they are 3D, and the data are 2D"),
            ({"channels": 4}, "warning", "the data have 4"),
            ({"spacing": [1.0, 1.0, 2.6]}, "warning", "1 1 2 mm"),
            ({"spacing": [1.0, 1.0, 4.0]}, "fault", "the data have 1 1 4 mm"),
            ({"spacing": [0.5, 1.0, 2.0]}, "fault", "0.5 1 2 mm"),
            ({"intensity": IntensityRule(kind="zscore").as_metadata()}, "fault", "window against zscore"),
            ({"intensity": IntensityRule(ct=(-200, 300)).as_metadata()}, "fault", "-200 to 300"),
        ],
    )  # fmt: skip
    def test_each_difference_is_found_alone(
        self, changed: dict[str, Any], severity: str, said: str
    ) -> None:
        found = agreement(FACTS, {**FACTS, **changed})
        assert [one.severity for one in found] == [severity]
        assert said in str(found[0])
        if severity == "fault":
            with pytest.raises(RunError, match="do not agree"):
                require_agreement(FACTS, {**FACTS, **changed})
        else:
            assert require_agreement(FACTS, {**FACTS, **changed}) == [str(found[0])]

    def test_2d_weights_for_3d_data_are_a_warning(self) -> None:
        (found,) = agreement({**FACTS, "dims": 2}, {"dims": 3})
        assert found.severity == "warning"

    def test_what_one_side_does_not_know_is_not_compared(self) -> None:
        assert agreement({**FACTS, "spacing": None}, FACTS) == []
        assert agreement(FACTS, {"dims": 3}) == []

    def test_2d_weights_are_compared_slice_by_slice(self) -> None:
        flat = {**FACTS, "dims": 2, "spacing": [1.0, 5.0, 5.0], "slice_spacing": [1.0, 1.0, 5.0]}
        upright = {"dims": 2, "spacing": [1.0, 5.0, 1.0], "slice_spacing": [1.0, 1.0, 5.0]}
        assert agreement(flat, upright) == []
        coarse = {"dims": 2, "spacing": [2.0, 5.0, 2.0], "slice_spacing": [2.0, 2.0, 5.0]}
        (found,) = agreement(flat, coarse)
        assert str(found) == "they saw voxels of 1 1 5 mm, and the data have 2 2 5 mm"
        assert found.remedy == "Give --spacing 1 5 1."

    def test_the_window_of_an_absent_modality_does_not_matter(self) -> None:
        other = {"intensity": IntensityRule(ct=(0, 100)).as_metadata()}
        assert agreement(FACTS, {**other, "modality": ["MR"]}) == []
        assert agreement(FACTS, {**other, "modality": ["CT", "MR"]}) != []

    def test_weights_of_other_tools_are_said_to_be_unchecked(self) -> None:
        assert "unchecked" in require_agreement({}, FACTS)[0]
