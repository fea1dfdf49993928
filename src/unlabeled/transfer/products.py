"""What a pretrained method makes of scans by itself: denoised images, landmarks, reconstructions."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from unlabeled.data.formats import write_mask
from unlabeled.data.intensity import IntensityRule
from unlabeled.data.resampling import Resampling
from unlabeled.data.store import Record, Store
from unlabeled.errors import RunError
from unlabeled.methods._base import Method, Product
from unlabeled.methods._registry import find
from unlabeled.nn.weights import read_weights
from unlabeled.training.checkpoint import write_atomically
from unlabeled.training.pretrain import WHOLE, build_method, open_store
from unlabeled.transfer.inference import Native, native_grid
from unlabeled.transfer.saved import rule_from


@dataclass(frozen=True)
class SavedMethod:
    """A pretrained method, ready to make something of scans.

    Parameters
    ----------
    method
        With its trained weights, in evaluation mode, on the CPU.
    rule
        How intensities enter it.
    metadata
        Everything else that was saved.
    """

    method: Method
    rule: IntensityRule
    metadata: Mapping[str, Any]

    @property
    def compares(self) -> bool:
        """Whether its method says how right it is where scans have masks."""
        return self.method.compares

    @property
    def modality(self) -> str:
        """What the scans that it learnt from were, where they were of one kind."""
        learnt = self.metadata.get("modality") or []
        return str(learnt[0]) if len(learnt) == 1 else ""

    def open_store(self, root: Path | None) -> Store:
        """Open the store of scans prepared as for its pretraining."""
        return open_store(type(self.method), self.method.options, root)

    def unfit(self, record: Record) -> str:
        """Say why the method cannot take a scan; empty when it can."""
        wanted, dims = int(self.metadata["channels"]), self.method.encoder.dims
        if record.dims < dims:
            return f"is a {record.dims}D picture, and the method takes volumes"
        if record.channels != wanted and self.method.in_channels is None:
            return f"has {record.channels} channel(s), and the method takes {wanted}"
        return ""

    def answer(self, record: Record, stem: Path, folder: Path) -> dict[str, Any]:
        """Make the product of one scan, write its files beside `stem`, and give its row."""
        with torch.no_grad():
            product = self.method.product(record)
        resampled = self.method.options.spacing is not None
        native = native_grid(record, resampled=resampled)
        stem.parent.mkdir(parents=True, exist_ok=True)
        files = {
            **_write_images(product, record, native, stem),
            **_write_masks(product, record, native, stem),
            **_write_pictures(product, stem),
            **_write_points(product, record, stem),
        }
        named = {name: path.relative_to(folder).as_posix() for name, path in files.items()}
        return {"file": record.source.name, **named, **product.values}


def load_method(run: Path) -> SavedMethod:
    """Rebuild the method of a run folder, every tensor in place.

    Raises
    ------
    RunError
        The file is damaged, or was written by another version.
    """
    path = run / WHOLE
    tensors, facts = read_weights(path)
    try:
        kind = find(facts["slug"])
        plain = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in facts["options"].items()
        }
        options = kind.options_class.from_names(**plain)
        dims, channels = int(facts["dims"]), int(facts["channels"])
        with torch.random.fork_rng(devices=[]):
            method = build_method(kind, options, dims=dims, channels=channels)  # type: ignore[arg-type]
        method.load_state_dict({n.removeprefix("method."): t for n, t in tensors.items()})
    except (KeyError, TypeError, RuntimeError) as fault:
        first = str(fault).splitlines()[0]
        raise RunError(
            f"{path} does not hold a whole method ({first})",
            "It was written by another version; pretrain again.",
        ) from None
    return SavedMethod(method.eval(), rule_from(facts), facts)


def _write_images(product: Product, record: Record, native: Native, stem: Path) -> dict[str, Path]:
    """Write images on the scan's own grid: NIfTI, or for pictures TIFF of floating-point numbers."""
    picture = len(record.grid.shape) == 2 and record.grid.affine is None
    written = {}
    for name, image in product.images.items():
        layers = _on_own_grid(image.float().cpu().numpy(), record, native)
        if picture:
            path = stem.with_name(f"{stem.name}_{name}.tif")
            file = io.BytesIO()
            tifffile.imwrite(file, layers[0] if len(layers) == 1 else np.moveaxis(layers, 0, -1))
            write_atomically(path, file.getvalue())
            written[name] = path
            continue
        for number, layer in enumerate(layers):
            called = name if len(layers) == 1 else f"{name}_{number}"
            path = stem.with_name(f"{stem.name}_{called}.nii.gz")
            write_mask(path, layer, record.grid, native.affine)
            written[called] = path
    return written


def _on_own_grid(image: NDArray[Any], record: Record, native: Native) -> NDArray[Any]:
    change = _resampling(record, native)
    return image if change is None else change.image(image)


def _resampling(record: Record, native: Native) -> Resampling | None:
    """Give the way back to the scan's own grid; None where the record has it."""
    own, kept = native.spacing, record.spacing
    if not (own and kept) or np.allclose(own, kept, rtol=1e-4, atol=0):
        return None
    ratio = tuple(one / other for one, other in zip(own, kept, strict=True))
    return Resampling(record.space, native.space, ratio)


def _write_masks(product: Product, record: Record, native: Native, stem: Path) -> dict[str, Path]:
    """Write masks on the scan's own grid: NIfTI, or for pictures PNG."""
    picture = len(record.grid.shape) == 2 and record.grid.affine is None
    change, written = _resampling(record, native), {}
    for name, mask in product.masks.items():
        values = mask.cpu().numpy()
        own = values if change is None else change.mask(values)
        written[name] = stem.with_name(f"{stem.name}_{name}{'.png' if picture else '.nii.gz'}")
        write_mask(written[name], own, record.grid, native.affine)
    return written


def _write_pictures(product: Product, stem: Path) -> dict[str, Path]:
    written = {}
    for name, picture in product.pictures.items():
        written[name] = stem.with_name(f"{stem.name}_{name}.png")
        write_picture(written[name], picture)
    return written


def write_picture(path: Path, picture: Tensor) -> None:
    """Write ``1|3 rows columns`` in [0, 1] as PNG."""
    levels = (picture.float().clamp(0, 1) * 255).round().byte().cpu().numpy()
    pixels = levels[0] if len(levels) == 1 else levels.transpose(1, 2, 0)
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(file, "PNG")
    write_atomically(path, file.getvalue())


def _write_points(product: Product, record: Record, stem: Path) -> dict[str, Path]:
    """Write points as CSV: world position [mm, RAS+] where the affine is known, else rows and columns [pixel]."""
    if not product.points:
        return {}
    text = io.StringIO()
    names, rows = positions(product.points, record)
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["point", *names])
    writer.writerows([name, *(f"{x:.4f}" for x in row)] for name, row in rows.items())
    path = stem.with_name(f"{stem.name}_points.csv")
    write_atomically(path, text.getvalue().encode())
    return {"points": path}


def positions(
    points: Mapping[str, Tensor], record: Record
) -> tuple[Sequence[str], dict[str, list[float]]]:
    """Give axis names and the position of each point: in the world [mm], else on the grid [pixel] or [voxel]."""
    found = {name: point.double().cpu().numpy() for name, point in points.items()}
    affine = record.affine
    if affine is not None and record.dims == 3:
        world = {name: (affine @ [*voxel, 1.0])[:3].tolist() for name, voxel in found.items()}
        return ("x [mm]", "y [mm]", "z [mm]"), world
    if record.dims == 3:
        plain = {name: voxel.tolist() for name, voxel in found.items()}
        return ("x [voxel]", "y [voxel]", "z [voxel]"), plain
    if record.spacing is not None:
        edges = np.asarray(record.spacing)
        return ("row [mm]", "column [mm]"), {n: (v * edges).tolist() for n, v in found.items()}
    return ("row [pixel]", "column [pixel]"), {n: v.tolist() for n, v in found.items()}
