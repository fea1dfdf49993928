"""Small options and small scans for every method: what a contract test needs to run one within seconds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from cell_pictures import write_cells
from chest_studies import write_studies
from shapes import write_shapes

from unlabeled.demo.frames import write_frames
from unlabeled.demo.hearts import write_hearts
from unlabeled.demo.modalities import write_modalities
from unlabeled.demo.phantoms import write_manifest, write_patients
from unlabeled.demo.sections import write_sections
from unlabeled.demo.spines import write_spines
from unlabeled.demo.stereo import write_stereo
from unlabeled.demo.subjects import write_subject
from unlabeled.methods._base import SharedOptions
from unlabeled.methods._registry import find

SMALL: dict[str, Any] = {
    "batch_size": 2,
    "samples_per_scan": 1,
    "encoder": "resenc-tiny",
    "epochs": 2,
    "steps": 3,
}
#: options of one method that make it small: by slug
OWN: dict[str, dict[str, Any]] = {
    "anatomical-position": {"box_size": 20.0},
    "af-seg": {
        "encoder": "care-unet-tiny",
        "warm_up": 0.5,
        "critic_width": 4,
        "critic_layers": 2,
    },
    "arthroscopy-depth": {"classes": 2, "epochs": 8},
    "fmri-reconstruction": {
        "batch_size": 4,
        "unpaired": 1,
        "voxels": 12,
        "test_responses": True,
        "max_shift": 2,
    },
    "endoscopic-recolorization": {"frame_size": 32, "critic_width": 4, "critic_layers": 2},
    "body-part-recognition": {"spacing": (1.0, 1.0, 1.0), "hidden": 8},
    "c2l": {"queue": 24, "features": 16, "hole_size": 6},
    "global-local-contrast": {"epochs": 8, "local_batch_size": 2},
    "gloria": {
        "image_size": 40,
        "enlarge": 0,
        "words": 16,
        "text_width": 16,
        "text_layers": 2,
        "text_heads": 2,
    },
    "voidseg": {"encoder": "care-unet-tiny"},
    "context-restoration": {"patience": 2},
    "contrastive-rendering": {"rendered": 50, "contrast_points": 4},
    "multimodal-puzzles": {"grid": 2, "features": 16},
    "models-genesis": {"shuffle_windows": 50, "lr": 0.1},
    "pcrl": {"queue": 24, "features": 16, "hole_size": 6, "shuffle_windows": 50},
    "spinal-mri": {"encoder": "thin-cnn-16", "features": 8, "slice_shift": 0},
    "superpixel-fewshot": {"min_size": 30, "smallest_region": 10, "width": 16, "elastic": 2.0},
    "supervoxel-inpainting": {"segments": 27, "smallest_region": 40},
    "surrogate-supervision": {
        "task": "multi-task",
        "colourisation_weight": 0.0,
        "turns": "plane",
        "critic_width": 4,
        "critic_layers": 2,
        "critic_steps": 2,
    },
    "self-loop-uncertainty": {
        "epochs": 8,
        "patch_size": (30, 30),
        "label_fraction": 0.5,
        "label_values": (1, 2, 3),
        "permutations": 6,
        "updates": 2,
        "hidden": 8,
    },
    "shape-landmarks": {"landmarks": 12, "kept": 3, "ranking_batches": 1},
    "pgl": {"hidden": 16, "features": 8},
    "refers": {
        "image_size": 40,
        "words": 24,
        "text_width": 16,
        "text_layers": 2,
        "text_heads": 2,
        "decoder_width": 16,
        "decoder_heads": 2,
    },
    "rubiks-cube": {
        "patch_size": (10, 10, 10),
        "permutations": 6,
        "features": 8,
        "head_width": 16,
    },
    "rubiks-cube-plus": {
        "patch_size": (10, 10, 10),
        "permutations": 6,
        "features": 8,
        "head_width": 16,
    },
    "cytoarchitectonic-siamese": {"features": 8, "patch_size": (24, 24), "scale": 4.0},
    "rubiks-cube-volume-wise": {"side": 4, "critic_width": 4, "critic_layers": 1},
}


#: whose loss depends on the order of the batch, and why: by slug
ORDER_MATTERS: dict[str, str] = {
    "contrastive-rendering": "points are drawn by place; without them, its own tests permute the batch",
    "af-seg": "objects are drawn from noise by place; its own tests permute the batch of the warm-up",
    "c2l": "each image is mixed with a partner drawn by place; without mixing, its own tests permute the batch",
    "surrogate-supervision": "the critic's slope is measured at mixtures drawn by place; its own tests permute the batch",
    "pcrl": "each image is mixed with a partner drawn by place; without mixing, its own tests permute the batch",
}


def write_phantoms(folder: Path, dims: int) -> Path:
    """Write eight small patients, one grey scan each; give what a person would type."""
    write_patients(folder, patients=8, shape=(40, 40) if dims == 2 else (20, 20, 20))
    return folder


def write_volumes(folder: Path, dims: int) -> Path:
    """Write eight small patients in 3D, whatever the networks' axes: for methods that learn from slices of volumes."""
    write_patients(folder, patients=8, shape=(20, 20, 20))
    return folder


def write_labelled(folder: Path, dims: int) -> Path:
    """Write eight small patients with masks, for methods that learn from masks; give the manifest."""
    shape = (40, 40) if dims == 2 else (20, 20, 20)
    images = write_patients(folder, patients=8, shape=shape, labelled=True)
    rows = [f"images/{image.name},labels/{image.name}" for image in images]
    manifest = folder / "labelled.csv"
    manifest.write_text("\n".join(["image,mask", *rows]) + "\n")
    return manifest


def write_contrasts(folder: Path, dims: int) -> Path:
    """Write six small patients in two registered contrasts; give the manifest."""
    return write_modalities(folder, patients=6, shape=(20, 20, 12))
    """Write eight small patients with masks, for methods that learn from some of them; give the manifest."""
    images = write_patients(folder, patients=8, shape=(40, 40), labelled=True)
    rows = [{"image": f"images/{one.name}", "mask": f"labels/{one.name}"} for one in images]
    return write_manifest(folder / "scans.csv", rows)


def write_reports(folder: Path, dims: int) -> Path:
    """Write eight pictures with reports, for methods that read; give the manifest."""
    return write_shapes(folder, 8)


def write_visits(folder: Path, dims: int) -> Path:
    """Write six people scanned twice, with boxes around three bodies each; give the manifest."""
    return write_spines(folder, subjects=6, levels=3, dims=dims)


def write_brain(folder: Path, dims: int) -> Path:
    """Write pictures, responses to some of them, and responses alone; give the manifest."""
    sizes = {"pairs": 12, "held_out": 4, "tested": 4, "loose": 8, "repeats": 3}
    return write_subject(folder, voxels=12, edge=32, **sizes)


#: what a method learns from that needs other scans than grey phantoms: writers like `write_phantoms`, by slug
OWN_SCANS: dict[str, Callable[[Path, int], Path]] = {
    "anatomical-position": lambda folder, dims: write_hearts(
        folder, studies=8, edge=32, pixel=5.0, slices=4
    ),
    "af-seg": lambda folder, dims: write_cells(folder, 8, edge=40).parent / "pictures",
    "arthroscopy-depth": lambda folder, dims: write_stereo(folder, shape=(32, 40)),
    "fmri-reconstruction": write_brain,
    "body-part-recognition": write_volumes,
    "contrastive-rendering": write_labelled,
    "cytoarchitectonic-siamese": lambda folder, dims: write_sections(folder, sections=6, radius=30),
    "endoscopic-recolorization": lambda folder, dims: write_frames(folder),
    "gloria": write_reports,
    "global-local-contrast": write_volumes,
    "multimodal-puzzles": write_contrasts,
    "refers": lambda folder, dims: write_studies(folder, 8),
    "spinal-mri": write_visits,
    "self-loop-uncertainty": write_labelled,
    "volume-context": write_volumes,
}


def small_options(slug: str, dims: int, **changes: Any) -> SharedOptions:
    """Make the options of a small run."""
    edge = 16 if dims == 3 else 32
    values = {**SMALL, "patch_size": (edge,) * dims, "dims": dims, **OWN.get(slug, {}), **changes}
    made = find(slug).options_class.from_names(**values)
    assert isinstance(made, SharedOptions)
    return made


def every_method_and_dims() -> list[tuple[str, int]]:
    """List all methods, in all dimensions that they work on."""
    from unlabeled.methods._registry import slugs

    return [(slug, dims) for slug in slugs() for dims in find(slug).needs.dims]
