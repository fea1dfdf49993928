"""Exports, proved by loading them in the tools where they are installed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from unlabeled.cli.export import export as command
from unlabeled.errors import OptionError, RunError
from unlabeled.nn.decoders import build_decoder
from unlabeled.nn.encoders import Encoder, build_encoder
from unlabeled.nn.weights import load_encoder, save_encoder
from unlabeled.transfer import layouts
from unlabeled.transfer.export import export


def make_run(
    folder: Path, name: str, dims: int, channels: int = 1, decoder: bool = False, **facts: Any
) -> Encoder:
    """Write a run folder that holds nothing but an encoder with weights of its own."""
    torch.manual_seed(3)
    encoder = build_encoder(name, dims=dims, in_channels=channels).eval()
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.02)
    modules: dict[str, nn.Module] = {"encoder": encoder}
    if decoder:
        modules["decoder"] = build_decoder(encoder, out_channels=1)
    save_encoder(folder / "encoder.safetensors", modules, {"slug": "models-genesis", **facts})
    return encoder


def nnunet_network(architecture: dict[str, Any], channels: int, classes: int) -> nn.Module:
    """Build nnU-Net's network from the plan entry, as nnU-Net does: imports by name, then the arguments."""
    unet: Any = pytest.importorskip(
        "dynamic_network_architectures.architectures.unet",
        reason="pip install --no-deps dynamic-network-architectures proves the export to nnU-Net",
    )
    assert architecture["network_class_name"].endswith("unet.ResidualEncoderUNet")
    arguments = dict(architecture["arch_kwargs"])
    for key in architecture["_kw_requires_import"]:
        if arguments[key] is not None:
            arguments[key] = getattr(nn, arguments[key].rsplit(".", 1)[1])
    network: nn.Module = unet.ResidualEncoderUNet(
        input_channels=channels, num_classes=classes, deep_supervision=False, **arguments
    )
    return network


def load_as_nnunet(network: nn.Module, path: Path) -> None:
    """Load under the rule of nnU-Net's loader: every name but the class layers, in the same shape."""
    found = torch.load(path, weights_only=True)["network_weights"]
    own = network.state_dict()
    for name, tensor in own.items():
        if ".seg_layers." not in name:
            assert found[name].shape == tensor.shape, name
    own.update({name: tensor for name, tensor in found.items() if name in own})
    network.load_state_dict(own, strict=True)
    assert found.keys() <= own.keys()


@pytest.mark.parametrize(
    ("dims", "channels", "decoder"), [(2, 3, True), (3, 1, True), (3, 2, False)]
)
def test_nnunet_loads_the_checkpoint_and_gives_the_same_maps(
    tmp_path: Path, dims: int, channels: int, decoder: bool
) -> None:
    encoder = make_run(tmp_path / "run", "resenc-tiny", dims, channels, decoder)
    out = tmp_path / "pre.pth"
    done = export(tmp_path / "run", out, to="nnunet")
    assert done.also == (tmp_path / "pre.pth.architecture.json",)
    network: Any = nnunet_network(json.loads(done.also[0].read_text()), channels, 4).eval()
    load_as_nnunet(network, out)
    image = torch.randn(1, channels, *(16,) * dims, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for one, other in zip(encoder(image), network.encoder(image), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)
        assert network(image).shape == (1, 4, *(16,) * dims)
    told = " ".join(done.notes)
    assert ("as the run carries it" in told) == decoder
    assert ("fresh" in told) != decoder


def test_the_carried_decoder_reaches_nnunet(tmp_path: Path) -> None:
    make_run(tmp_path / "run", "resenc-tiny", 2, decoder=True)
    export(tmp_path / "run", tmp_path / "pre.pth", to="nnunet")
    found = torch.load(tmp_path / "pre.pth", weights_only=True)["network_weights"]
    carried = load_file(tmp_path / "run" / "encoder.safetensors")
    for name, tensor in carried.items():
        if name.startswith("decoder.head"):
            assert name not in found
        else:
            assert torch.equal(found[name], tensor)


def test_kernels_turned_for_nnunet_see_the_turned_image(tmp_path: Path) -> None:
    encoder = make_run(tmp_path / "run", "resenc-tiny", 3)
    done = export(tmp_path / "run", tmp_path / "pre.pth", to="nnunet", axes="zyx")
    network: Any = nnunet_network(json.loads(done.also[0].read_text()), 1, 2).eval()
    load_as_nnunet(network, tmp_path / "pre.pth")
    image = torch.randn(1, 1, 16, 24, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        turned = network.encoder(image.permute(0, 1, 4, 3, 2))
        for one, other in zip(encoder(image), turned, strict=True):
            torch.testing.assert_close(one, other.permute(0, 1, 4, 3, 2), rtol=1e-4, atol=1e-5)


def test_an_unfitting_decoder_is_left_out_and_said_to_be(tmp_path: Path) -> None:
    encoder = make_run(tmp_path / "run", "resenc-tiny", 2)
    other = build_decoder(build_encoder("resenc-s", dims=2), out_channels=1)
    save_encoder(
        tmp_path / "run" / "encoder.safetensors", {"encoder": encoder, "decoder": other}, {}
    )
    first = export(tmp_path / "run", tmp_path / "a.pth", to="nnunet")
    export(tmp_path / "run", tmp_path / "b.pth", to="nnunet")
    assert any("fresh weights" in note for note in first.notes)
    one, again = (
        torch.load(tmp_path / name, weights_only=True)["network_weights"]
        for name in ("a.pth", "b.pth")
    )
    assert all(torch.equal(tensor, again[name]) for name, tensor in one.items())


@pytest.mark.parametrize("dims", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_monai_loads_a_residual_network(tmp_path: Path, dims: int) -> None:
    import monai

    encoder = make_run(tmp_path / "run", "resnet18", dims)
    done = export(tmp_path / "run", tmp_path / "m.pt", to="monai")
    call = done.notes[0].removeprefix("Use: ").split(".load_state_dict")[0]
    network = eval(call, {"monai": monai}).eval()
    network.load_state_dict(torch.load(tmp_path / "m.pt", weights_only=True), strict=True)
    image = torch.randn(1, 1, *(32,) * dims, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(network(image), encoder(image)[-1].flatten(2).mean(2))


@pytest.mark.parametrize("dims", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_monai_loads_a_transformer(tmp_path: Path, dims: int) -> None:
    pytest.importorskip("einops", reason="MONAI's transformer needs einops")
    import monai

    encoder = make_run(tmp_path / "run", "vit-tiny", dims)
    done = export(tmp_path / "run", tmp_path / "m.pt", to="monai")
    call = done.notes[0].removeprefix("Use: ").split(".load_state_dict")[0]
    network = eval(call, {"monai": monai}).eval()
    lacking, extra = network.load_state_dict(
        torch.load(tmp_path / "m.pt", weights_only=True), strict=False
    )
    assert not extra
    assert all(name.startswith("classification_head") for name in lacking)
    for module in network.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = 1e-6
    edge = 224 if dims == 2 else 48
    image = torch.randn(1, 1, *(edge,) * dims, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        maps, (_, hidden) = encoder(image), network(image)
    for place, depth in enumerate((3, 6, 9)):
        theirs = hidden[depth - 1][:, 1:].transpose(1, 2).reshape(maps[place].shape)
        torch.testing.assert_close(maps[place], theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["resnet18", "vit-tiny"])
def test_timm_gets_its_own_names(tmp_path: Path, name: str) -> None:
    make_run(tmp_path / "run", name, 2, channels=3)
    done = export(tmp_path / "run", tmp_path / "t.pth", to="timm")
    found = torch.load(tmp_path / "t.pth", weights_only=True)
    assert layouts.TIMM[name] in done.notes[0]
    expected = {"resnet18": "layer4.1.bn2.running_var", "vit-tiny": "blocks.11.mlp.fc2.bias"}[name]
    assert expected in found


@pytest.mark.parametrize("name", ["resnet18", "vit-tiny"])
def test_timm_loads_it(tmp_path: Path, name: str) -> None:
    timm = pytest.importorskip("timm", reason="timm proves its own export")
    encoder = make_run(tmp_path / "run", name, 2)
    export(tmp_path / "run", tmp_path / "t.safetensors", to="timm")
    network = timm.create_model(layouts.TIMM[name], in_chans=1, num_classes=0)
    network.load_state_dict(load_file(tmp_path / "t.safetensors"), strict=True)
    image = torch.randn(1, 1, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        theirs = network.eval().forward_features(image)
        last = encoder(image)[-1]
    laid = theirs if theirs.ndim == 4 else theirs[:, 1:].transpose(1, 2).reshape(last.shape)
    torch.testing.assert_close(laid, last, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("target", ["safetensors", "timm", "monai"])
def test_the_encoder_after_export_is_the_encoder_before(tmp_path: Path, target: Any) -> None:
    encoder = make_run(tmp_path / "run", "resnet18", 2)
    before = (tmp_path / "run" / "encoder.safetensors").read_bytes()
    out = tmp_path / "w.safetensors"
    export(tmp_path / "run", out, to=target)
    found = load_file(out)
    state = encoder.state_dict()
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in state.items())
    assert (tmp_path / "run" / "encoder.safetensors").read_bytes() == before
    again, _ = load_encoder(tmp_path / "run")
    assert all(torch.equal(again.state_dict()[name], tensor) for name, tensor in state.items())


@pytest.mark.parametrize(
    ("name", "dims"), [("resenc-tiny", 3), pytest.param("resnet18", 2, marks=pytest.mark.slow)]
)
def test_onnx_gives_the_same_maps(tmp_path: Path, name: str, dims: int) -> None:
    for needed in ("onnx", "onnxscript"):
        pytest.importorskip(needed, reason="the extra onnx writes graphs")
    runtime: Any = pytest.importorskip("onnxruntime", reason="the extra onnx runs graphs")
    encoder = make_run(tmp_path / "run", name, dims, patch_size=[32] * dims)
    done = export(tmp_path / "run", tmp_path / "g.onnx", to="onnx")
    assert [one.name for one in tmp_path.iterdir() if one.is_file()] == ["g.onnx"]
    assert "onnxruntime gives the same maps" in done.notes[1]
    session = runtime.InferenceSession(str(tmp_path / "g.onnx"), providers=["CPUExecutionProvider"])
    image = torch.randn(3, 1, *(32,) * dims, generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        expected: list[Tensor] = encoder(image)
    for one, other in zip(session.run(None, {"image": image.numpy()}), expected, strict=True):
        torch.testing.assert_close(torch.from_numpy(one), other, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("name", "dims", "target", "works"),
    [
        ("unet", 2, "nnunet", "safetensors, onnx"),
        ("resnet18", 2, "nnunet", "monai, timm, safetensors, onnx"),
        ("resenc-tiny", 2, "monai", "nnunet, safetensors, onnx"),
        ("resenc-tiny", 3, "timm", "nnunet, safetensors, onnx"),
        ("vit-tiny", 3, "timm", "monai, safetensors, onnx"),
    ],
)
def test_a_tool_without_the_network_is_refused_with_what_works(
    tmp_path: Path, name: str, dims: int, target: Any, works: str
) -> None:
    make_run(tmp_path / "run", name, dims)
    with pytest.raises(OptionError, match="has no network with the tensors of") as refused:
        export(tmp_path / "run", tmp_path / "out", to=target)
    assert refused.value.remedy == f"For this run --to takes {works}."
    assert not (tmp_path / "out").exists()


def test_wrong_calls_are_refused(tmp_path: Path) -> None:
    make_run(tmp_path / "run", "resenc-tiny", 2)
    run, out = tmp_path / "run", tmp_path / "out.pth"
    with pytest.raises(OptionError, match="--to keras is unknown"):
        export(run, out, to="keras")  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="--axes yxz is unknown"):
        export(run, out, to="nnunet", axes="yxz")  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="is for nnU-Net"):
        export(run, out, to="safetensors", axes="zyx")
    with pytest.raises(OptionError, match="is a folder"):
        export(run, tmp_path)
    with pytest.raises(RunError, match=r"holds no encoder\.safetensors"):
        export(tmp_path, out)
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="cannot be written"):
        export(run, tmp_path / "file" / "below.safetensors")


def test_the_missing_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_run(tmp_path / "run", "resenc-tiny", 2)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(RunError, match="needs onnx and onnxscript") as refused:
        export(tmp_path / "run", tmp_path / "g.onnx", to="onnx")
    assert "unlabeled[onnx]" in refused.value.remedy


@pytest.mark.parametrize("as_json", [False, True])
def test_the_command_says_what_it_wrote(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], as_json: bool
) -> None:
    make_run(tmp_path / "run", "resenc-tiny", 2)
    out = tmp_path / "pre.pth"
    assert command(tmp_path / "run", to="nnunet", out=out, json=as_json) == 0
    said = capsys.readouterr().out
    if as_json:
        told = json.loads(said)
        assert told["file"] == str(out)
        assert told["tensors"] > 0
    else:
        assert f"wrote {out}" in said
        assert "-pretrained_weights" in said
