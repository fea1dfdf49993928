"""Weights for the tools that people already use: nnU-Net, MONAI, timm, safetensors, ONNX."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from unlabeled.errors import OptionError, RunError
from unlabeled.nn.decoders import SkipDecoder
from unlabeled.nn.encoders import Encoder
from unlabeled.nn.resenc import ResidualEncoder
from unlabeled.nn.weights import load_encoder, load_weights, read_weights, write_atomically
from unlabeled.rng import derive
from unlabeled.transfer.layouts import (
    TIMM,
    monai_call,
    monai_tensors,
    nnunet_architecture,
    nnunet_tensors,
)

Target = Literal["nnunet", "monai", "timm", "safetensors", "onnx"]
Axes = Literal["xyz", "zyx"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """What was written.

    Attributes
    ----------
    path
        The file of weights.
    also
        Further files beside it.
    tensors
        How many tensors it holds; 0 for ONNX.
    notes
        How to use it, and what to know about it.
    """

    path: Path
    also: tuple[Path, ...] = ()
    tensors: int = 0
    notes: tuple[str, ...] = ()


def export(
    run: Path | str, out: Path | str, *, to: Target = "safetensors", axes: Axes = "xyz"
) -> Exported:
    """Write the encoder of a run for another tool; its tensors stay as they are, bit for bit.

    =============== ===================== ========================================================================
    target          encoders              file
    =============== ===================== ========================================================================
    ``nnunet``      ``resenc-*``          checkpoint for ``nnUNetv2_train -pretrained_weights``; architecture beside
    ``monai``       ``resnet*``, ``vit*`` state dict of the MONAI network
    ``timm``        the same, in 2D       state dict for ``timm.create_model(checkpoint_path=)``
    ``safetensors`` every one             the encoder's tensors under its own names
    ``onnx``        every one             graph from an image of the run's patch size to the feature maps
    =============== ===================== ========================================================================

    Parameters
    ----------
    run
        Run folder, or its ``encoder.safetensors``.
    out
        File to write; replaced whole or not at all.
    to
        Tool.
    axes
        For nnU-Net: ``xyz`` keeps kernels in the order that they were trained in (x, y, z of RAS), ``zyx`` reverses
        their axes, as nnU-Net's readers hand arrays over.

    Raises
    ------
    OptionError
        When the tool has no network with these tensors, or an option does not belong to it.
    RunError
        When the run holds no weights, the file cannot be written, or an extra is missing.
    """
    if to not in get_args(Target):
        raise OptionError(
            f"--to {to} is unknown", f"--to takes one of {', '.join(get_args(Target))}."
        )
    if axes not in get_args(Axes):
        raise OptionError(f"--axes {axes} is unknown", "--axes takes xyz or zyx.")
    if axes == "zyx" and to != "nnunet":
        raise OptionError(f"--axes zyx is for nnU-Net, not for {to}", "Leave --axes out.")
    path = Path(out)
    if path.is_dir():
        raise OptionError(f"--out {path} is a folder", f"Give a file: --out {path / 'weights'}.")
    encoder, metadata = load_encoder(run)
    if to == "nnunet":
        return _nnunet(run, encoder, path, axes)
    if to == "monai":
        return _monai(encoder, path)
    if to == "timm":
        return _timm(encoder, path)
    if to == "onnx":
        return _onnx(encoder, metadata, path)
    state = dict(encoder.state_dict())
    _write_safetensors(path, state)
    return Exported(path=path, tensors=len(state), notes=(_licence(metadata),))


def _licence(metadata: Mapping[str, Any]) -> str:
    return f"Licence of the weights: {metadata.get('licence') or 'not stated'}."


def _nnunet(run: Path | str, encoder: Encoder, path: Path, axes: Axes) -> Exported:
    if not isinstance(encoder, ResidualEncoder):
        raise _no_network(encoder, "nnU-Net", "the resenc encoders")
    if path.suffix == ".safetensors":
        raise OptionError(
            f"--out {path}: nnU-Net reads torch checkpoints alone",
            f"Give --out {path.with_suffix('.pth')}, or --to safetensors.",
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(0, "export", "decoder"))
        fresh = SkipDecoder(encoder, out_channels=1)
    decoder, known = fresh, "with fresh weights (the run carries none that fit)"
    found, _ = read_weights(run)
    carried = {name: tensor for name, tensor in found.items() if name.startswith("decoder.")}
    if carried:
        report = load_weights(decoder, carried, least=0.0)
        if all(name.startswith("head.") for name in report.missing):
            known = "as the run carries it"
        elif report.matched:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(derive(0, "export", "decoder"))
                decoder = SkipDecoder(encoder, out_channels=1)
    named = nnunet_tensors(encoder.state_dict(), decoder.state_dict(), reverse=axes == "zyx")
    beside = path.with_name(path.name + ".architecture.json")
    text = json.dumps(nnunet_architecture(encoder), indent=2)
    _write_torch(path, {"network_weights": named})
    write_atomically(beside, lambda draft: draft.write_text(text + "\n"))
    order = (
        "Kernels run z, y, x, as nnU-Net's arrays do."
        if axes == "zyx"
        else "Kernels run x, y, z (RAS); nnU-Net's arrays run z, y, x: --axes zyx turns them."
    )
    return Exported(
        path=path,
        also=(beside,),
        tensors=len(named),
        notes=(
            f"Use: nnUNetv2_train DATASET CONFIGURATION FOLD -pretrained_weights {path}",
            f"The plan needs this architecture: {beside.name} is its entry `architecture`.",
            f"Decoder: {known}. Layers that give classes are not part of it.",
            order,
        ),
    )


def _monai(encoder: Encoder, path: Path) -> Exported:
    named = monai_tensors(encoder)
    if named is None:
        raise _no_network(encoder, "MONAI", "resnet18, resnet50, vit-tiny, vit-s and vit")
    _write(path, named)
    notes = [f"Use: {monai_call(encoder)}.load_state_dict(...)"]
    if encoder.name.startswith("vit"):
        notes.append(
            "strict=False, as the classification head is yours; MONAI normalises with eps 1e-5, not 1e-6."
        )
    return Exported(path=path, tensors=len(named), notes=tuple(notes))


def _timm(encoder: Encoder, path: Path) -> Exported:
    if encoder.name not in TIMM or encoder.dims != 2:
        raise _no_network(encoder, "timm", "resnet18, resnet50, vit-tiny, vit-s and vit in 2D")
    named = dict(encoder.state_dict())
    _write(path, named)
    call = (
        f'timm.create_model("{TIMM[encoder.name]}", in_chans={encoder.in_channels}, num_classes=0, '
        f'checkpoint_path="{path}")'
    )
    return Exported(path=path, tensors=len(named), notes=(f"Use: {call}",))


def _no_network(encoder: Encoder, tool: str, fitting: str) -> OptionError:
    works = ["safetensors", "onnx"]
    if isinstance(encoder, ResidualEncoder):
        works.insert(0, "nnunet")
    if encoder.name in TIMM:
        works[:0] = ["monai", "timm"] if encoder.dims == 2 else ["monai"]
    return OptionError(
        f"{tool} has no network with the tensors of {encoder.name} in {encoder.dims}D; it has for {fitting}",
        f"For this run --to takes {', '.join(works)}.",
    )


class _Maps(nn.Module):
    """An encoder that returns a tuple, as graphs need."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.encoder(image))


def _onnx(encoder: Encoder, metadata: Mapping[str, Any], path: Path) -> Exported:
    absent = [name for name in ("onnx", "onnxscript") if importlib.util.find_spec(name) is None]
    if absent:
        raise RunError(
            f"--to onnx needs {' and '.join(absent)}", "Install it: pip install 'unlabeled[onnx]'."
        )
    space = _graph_space(encoder, metadata)
    rng = torch.Generator().manual_seed(derive(0, "export", "image"))
    image = torch.rand(2, encoder.in_channels, *space, generator=rng)
    network = _Maps(encoder).eval()
    names = [f"map{place}" for place in range(len(encoder.channels))]
    with _quiet(), torch.no_grad():
        program = torch.onnx.export(
            network,
            (image,),
            input_names=["image"],
            output_names=names,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            dynamo=True,
            verbose=False,
        )
    if program is None:
        raise RunError(f"{encoder.name} could not be turned into a graph", "Use --to safetensors.")
    write_atomically(path, lambda draft: program.save(draft, external_data=False))
    size = "x".join(map(str, space))
    notes = [f"Input `image`: batch x {encoder.in_channels} x {size}; outputs {', '.join(names)}."]
    notes.append(_onnx_check(path, network, image))
    return Exported(path=path, notes=tuple(notes))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hush what the exporter says about its own insides and about packages that it could use."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)


def _graph_space(encoder: Encoder, metadata: Mapping[str, Any]) -> tuple[int, ...]:
    """Edges of the image of a graph: the patch of the run, else two positions of the coarsest map."""
    patch = metadata.get("patch_size") or metadata.get("patch")
    if isinstance(patch, list) and len(patch) == encoder.dims:
        return tuple(int(edge) for edge in patch)
    return tuple(2 * stride for stride in encoder.strides[-1])


def _onnx_check(path: Path, network: nn.Module, image: Tensor) -> str:
    """Run the graph where a runtime is installed, and compare."""
    if importlib.util.find_spec("onnxruntime") is None:
        return "Not run here: onnxruntime is not installed."
    onnxruntime = importlib.import_module("onnxruntime")
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    found = session.run(None, {"image": image.numpy()})
    with torch.no_grad():
        expected = network(image)
    worst = max(
        float((torch.from_numpy(one) - other).abs().max() / other.abs().max().clamp(min=1e-12))
        for one, other in zip(found, expected, strict=True)
    )
    if worst > 1e-3:
        raise RunError(
            f"{path} gives other numbers than the encoder (largest relative difference {worst:.1e})",
            "Use --to safetensors, and report this with the versions of torch and onnx.",
        )
    return f"onnxruntime gives the same maps (largest relative difference {worst:.1e})."


def _write(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors in the format that the suffix names; torch's unless it is ``.safetensors``."""
    if path.suffix == ".safetensors":
        _write_safetensors(path, tensors)
    else:
        _write_torch(path, dict(tensors))


def _write_safetensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    plain = {
        name: t.detach().clone(memory_format=torch.contiguous_format) for name, t in tensors.items()
    }
    write_atomically(path, lambda draft: save_file(plain, draft, metadata={"format": "pt"}))
    _prove(path, plain, load_file(path))


def _write_torch(path: Path, content: dict[str, Any]) -> None:
    write_atomically(path, lambda draft: torch.save(content, draft))
    again = torch.load(path, map_location="cpu", weights_only=True)
    nest = content.get("network_weights")
    _prove(
        path, content if nest is None else nest, again if nest is None else again["network_weights"]
    )


def _prove(path: Path, written: Mapping[str, Tensor], read: Mapping[str, Tensor]) -> None:
    """Compare what the file holds with what was written, bit for bit."""
    differing = [name for name, tensor in written.items() if not torch.equal(tensor, read[name])]
    if differing or written.keys() != read.keys():
        raise RunError(
            f"{path} does not hold what was written ({len(differing)} tensors differ)",
            "The disk may be faulty; export to another place.",
        )
