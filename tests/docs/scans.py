"""Small phantoms for the pages: what lies at a place that a page names, by the word in its comment."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from PIL import Image
from shapes import write_shapes

from unlabeled.demo.frames import frame, instrument, write_frames
from unlabeled.demo.hearts import write_hearts
from unlabeled.demo.modalities import write_modalities
from unlabeled.demo.phantoms import write_manifest, write_patients
from unlabeled.demo.sections import half_cylinder, write_sections
from unlabeled.demo.spines import write_spines
from unlabeled.demo.stereo import write_stereo
from unlabeled.demo.subjects import write_subject

CUBE = (20, 20, 20)
SPLITS = ("train", "train", "train", "train", "val", "val", "test", "test")


def write_brain_sections(place: Path) -> None:
    """Sections of a phantom cortex; their manifest."""
    write_sections(place.parent, sections=6, radius=40)


def write_surface(place: Path) -> None:
    """The surface of the same phantom."""
    vertices, triangles = half_cylinder()
    np.savez(place, vertices=vertices, triangles=triangles)


def write_volumes(place: Path) -> None:
    write_patients(place, patients=8, shape=CUBE)


def write_labelled_volumes(place: Path) -> None:
    write_patients(place, patients=9, shape=CUBE, labelled=True, seed=1)


def write_contrasts(place: Path, *, registered: bool = True) -> None:
    """Volumes in two contrasts of the same patients, or of others, and the manifest in their folder."""
    write_modalities(place, patients=6, shape=CUBE, registered=registered)


def write_ct(place: Path) -> None:
    write_patients(place, patients=6, shape=(32, 32, 12), kind="ct")


def write_few_shot(place: Path, kind: str = "brightness") -> None:
    """One labelled volume to learn from, two to measure on; a manifest."""
    write_masked(place, ("train", "val", "test"), shape=(32, 32, 12), kind=kind, seed=2)


def write_masked(place: Path, splits: tuple[str, ...] = SPLITS, **sizes: Any) -> None:
    """Volumes with masks; a manifest that says their part."""
    folder = place.with_suffix("")
    drawn = {"shape": CUBE, "seed": 3, **sizes}
    write_patients(folder, patients=len(splits), labelled=True, **drawn)
    write_manifest(
        place,
        [
            {
                "image": f"{folder.name}/images/phantom-{number:03d}.nii.gz",
                "mask": f"{folder.name}/labels/phantom-{number:03d}.nii.gz",
                "subject": f"q{number}",
                "split": split,
            }
            for number, split in enumerate(splits)
        ],
    )


def write_places(place: Path) -> None:
    """Volumes of which the height of the lowest slice is known; a manifest."""
    folder = place.with_suffix("")
    write_patients(folder, patients=len(SPLITS), shape=CUBE, seed=4)
    rows = [
        {
            "image": f"{folder.name}/phantom-{number:03d}.nii.gz",
            "subject": f"l{number}",
            "target": -10 + number % 3,
            "split": split,
        }
        for number, split in enumerate(SPLITS)
    ]
    write_manifest(place, rows)


def write_spine_scans(place: Path) -> None:
    """People scanned twice, with boxes around their vertebral bodies; a manifest among the scans."""
    write_spines(place, subjects=6, levels=3)


def write_visits(place: Path) -> None:
    """Volumes of people at two visits each; a manifest."""
    folder = place.with_suffix("")
    write_patients(folder, patients=12, shape=CUBE, seed=5)
    rows = [
        {
            "image": f"{folder.name}/phantom-{number:03d}.nii.gz",
            "subject": f"v{number // 2}",
            "study": f"visit {number % 2}",
        }
        for number in range(12)
    ]
    write_manifest(place, rows)


def write_graded(place: Path) -> None:
    """Volumes of two grades; a manifest."""
    folder = place.with_suffix("")
    write_patients(folder, patients=len(SPLITS), shape=CUBE, seed=6)
    rows = [
        {
            "image": f"{folder.name}/phantom-{number:03d}.nii.gz",
            "subject": f"g{number}",
            "label": f"grade {number % 2 + 1}",
            "split": split,
        }
        for number, split in enumerate(SPLITS)
    ]
    write_manifest(place, rows)


def write_pictures(place: Path) -> None:
    write_patients(place, patients=8, shape=(40, 40))


def write_classes(place: Path) -> None:
    """Pictures of two classes; a manifest."""
    folder = place.with_suffix("")
    write_patients(folder, patients=12, shape=(40, 40), seed=3)
    write_manifest(
        place,
        [
            {
                "image": f"{folder.name}/phantom-{number:03d}.png",
                "subject": f"c{number}",
                "label": ("ill", "well")[number % 2],
                "split": SPLITS[number // 2] if number < 8 else ("val", "test")[number % 4 // 2],
            }
            for number in range(12)
        ],
    )


def write_colours(place: Path) -> None:
    """Pictures in colour of two classes; a manifest."""
    folder = place.with_suffix("")
    folder.mkdir()
    rows = []
    for number in range(8):
        name = f"{folder.name}/{number}.png"
        Image.fromarray(frame(number, 32)).save(place.parent / name)
        split = ("train", "train", "val", "val")[number // 2]
        rows.append(
            {"image": name, "subject": f"k{number}", "label": "ab"[number % 2], "split": split}
        )
    write_manifest(place, rows)


def write_instruments(place: Path) -> None:
    """Frames with masks of the instrument."""
    for part in ("images", "labels"):
        (place / part).mkdir(parents=True)
    for seed in range(8):
        Image.fromarray(frame(seed)).save(place / "images" / f"video{seed}.png")
        Image.fromarray(instrument(seed)).save(place / "labels" / f"video{seed}.png")


def write_reports(place: Path) -> None:
    """Pictures with reports and classes; a manifest."""
    place.parent.mkdir(parents=True, exist_ok=True)
    made = write_shapes(place.parent, 12)
    made.rename(place)


def write_prompts(place: Path) -> None:
    """Sentences for the classes of `write_reports`."""
    place.write_text(
        "".join(f'{name} = ["large bright {name}"]\n' for name in ("disc", "square", "cross"))
    )


def write_nuclei(place: Path) -> None:
    """Noisy pictures of bright discs."""
    place.mkdir(parents=True)
    for seed in range(6):
        tifffile.imwrite(place / f"n{seed}.tif", _nuclei(seed)[0])


def write_labelled_nuclei(place: Path) -> None:
    """Noisy pictures of bright discs, with masks that number them."""
    for part in ("images", "labels"):
        (place / part).mkdir(parents=True)
    for seed in range(10, 20):
        image, numbers = _nuclei(seed)
        tifffile.imwrite(place / "images" / f"n{seed}.tif", image)
        Image.fromarray(numbers).save(place / "labels" / f"n{seed}.png")


def write_few_masks(place: Path) -> None:
    """The same, of which a few have masks; a manifest."""
    folder = place.with_suffix("")
    write_labelled_nuclei(folder)
    rows: list[dict[str, object]] = [
        {"image": f"{folder.name}/images/n{seed}.tif", "subject": f"n{seed}"}
        for seed in range(10, 20)
    ]
    for row, seed in zip(rows[:6], range(10, 16), strict=True):
        row["mask"] = f"{folder.name}/labels/n{seed}.png"
    write_manifest(place, rows)


def _nuclei(seed: int, edge: int = 40) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:edge, :edge]
    numbers = np.zeros((edge, edge), np.uint8)
    for place, (row, column) in enumerate([(10, 10), (10, 22), (28, 12), (27, 29)], start=1):
        inside = (rows - row) ** 2 + (columns - column) ** 2 < rng.uniform(5, 6.5) ** 2
        numbers[inside & (numbers == 0)] = place
    image = 40 + 100 * (numbers > 0) + rng.normal(0, 25, numbers.shape)
    return image.astype(np.float32), numbers


def write_brain(place: Path) -> None:
    """A phantom subject; its manifest."""
    place.parent.mkdir(parents=True, exist_ok=True)
    sizes = {"pairs": 12, "held_out": 4, "tested": 4, "loose": 8, "repeats": 3}
    write_subject(place.parent, voxels=12, edge=32, **sizes).rename(place)


def write_labelled_hearts(place: Path) -> None:
    """Studies of hearts, their short-axis stacks with masks; a manifest."""
    size = {"edge": 32, "pixel": 5.0, "slices": 4}
    folder = place.with_suffix("")
    made = write_hearts(folder, studies=6, seed=2, labelled=True, **size)
    with made.open(newline="") as file:
        rows = list(csv.DictReader(file))
    splits = ("train", "train", "train", "train", "val", "test")
    for number, row in enumerate(rows):
        row["image"] = f"{folder.name}/{row['image']}"
        row["mask"] = row["mask"] and f"{folder.name}/{row['mask']}"
        row["split"] = splits[number // 3]
    write_manifest(place, rows)


WRITERS: dict[str, Callable[[Path], None]] = {
    "brain": write_brain,
    "classes": write_classes,
    "colours": write_colours,
    "contrasts": write_contrasts,
    "contrasts-apart": lambda place: write_contrasts(place, registered=False),
    "ct": write_ct,
    "few-masks": write_few_masks,
    "few-shot": write_few_shot,
    "few-shot-ct": lambda place: write_few_shot(place, "ct"),
    "hearts": lambda place: write_hearts(place, studies=4, edge=32, pixel=5.0, slices=4) and None,
    "frames": lambda place: write_frames(place, each=2) and None,
    "graded": write_graded,
    "instruments": write_instruments,
    "labelled-hearts": write_labelled_hearts,
    "labelled-nuclei": write_labelled_nuclei,
    "labelled-volumes": write_labelled_volumes,
    "masked": write_masked,
    "nuclei": write_nuclei,
    "pictures": write_pictures,
    "places": write_places,
    "prompts": write_prompts,
    "reports": write_reports,
    "sections": write_brain_sections,
    "surface": write_surface,
    "spines": write_spine_scans,
    "visits": write_visits,
    "stereo": lambda place: write_stereo(place.parent) and None,
    "volumes": write_volumes,
}
