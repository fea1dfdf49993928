"""Lay out the real data sets as a person would have them: a folder of scans, and a manifest of labelled ones."""

from __future__ import annotations

import csv
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import nibabel
import numpy as np
import tifffile
from PIL import Image

from unlabeled.demo.stereo import write_stereo

PARTS = ("train", "val", "test")
NOISE = 20.0  # added to nuclei [grey levels of 8 bits], one of the paper's
LUNGS = 1 | 2  # bits of a mask of chest-xray-notes-masks


def lay_out(name: str, data: Path, work: Path) -> tuple[Path, Path]:
    """Unpack a data set once; give the folder of unlabelled scans and the manifest of labelled ones.

    A name may say what is asked of the scans behind a double hyphen, where masks alone are not it.
    """
    place = work / name
    made = {
        "hippocampus-mri": _hippocampus,
        "hippocampus-mri--heights": _heights,
        "chest-xray-longitudinal": _chest,
        "chest-xray-longitudinal--visits": _visits,
        "chest-xray-notes-masks": _notes,
        "brain-tumour-mri": _tumours,
        "cardiac-cine-mri": _cardiac,
        "cardiac-cine-mri--planes": _planes,
        "colonoscopy": _colonoscopy,
        "colonoscopy--pairs": _pairs,
        "nuclei": _nuclei,
        "nuclei--clean": _clean_nuclei,
        "breast-ultrasound": _ultrasound,
        "skin-lesions": _skin,
        "skin-lesions--few": _few_lesions,
        "fmri-digits": _digits,
        "brain-sections": _sections,
    }[name]
    return made(data / name.partition("--")[0], place)


def _hippocampus(source: Path, place: Path) -> tuple[Path, Path]:
    """All 114 training images without labels; every subject with labels and its part."""
    _unpack(source, place)
    return place / "train" / "images", _manifest(place / "labelled.csv", _labelled(place))


def _heights(source: Path, place: Path) -> tuple[Path, Path]:
    """The same; the target is how high the lowest slice lies above the middle of the hippocampus [mm]."""
    _unpack(source, place)
    rows = [
        {**row, "target": f"{_height_of_lowest(place / row['mask']):.3f}"}
        for row in _labelled(place)
    ]
    return place / "train" / "images", _manifest(place / "labelled.csv", rows)


def _labelled(place: Path) -> list[dict[str, str]]:
    """List unpacked scans with their masks and parts."""
    return [
        {
            "image": f"{part}/images/{image.name}",
            "mask": f"{part}/labels/{image.name}",
            "subject": image.name.removesuffix(".nii.gz"),
            "split": part,
        }
        for part in PARTS
        for image in sorted((place / part / "images").iterdir())
    ]


def _height_of_lowest(mask: Path) -> float:
    """Say how high the lowest voxels of a mask's grid lie above the middle of what it marks [mm]."""
    scan = nibabel.as_closest_canonical(nibabel.load(mask))
    marked = np.argwhere(np.asarray(scan.dataobj) > 0)
    return -float(marked[:, 2].mean()) * float(scan.header.get_zooms()[2])


def _chest(source: Path, place: Path) -> tuple[Path, Path]:
    """All training radiographs; ap or pa as the label, patients as subjects."""
    _unpack(source, place)
    with (source / "images.csv").open(newline="") as file:
        known = list(csv.DictReader(file))
    files = {path.name: path for path in place.rglob("*.png")}
    rows = []
    for row in known:
        path = files.get(row["image"])
        if path is not None and row["projection"] in ("ap", "pa"):
            rows.append(
                {
                    "image": str(path.relative_to(place)),
                    "label": row["projection"],
                    "subject": row["patient_id"],
                    "split": row["split"],
                }
            )
    unlabelled = [
        {key: row[key] for key in ("image", "subject")} for row in rows if row["split"] == "train"
    ]
    scans = _manifest(place / "scans.csv", unlabelled)
    return scans, _manifest(place / "labelled.csv", rows)


def _visits(source: Path, place: Path) -> tuple[Path, Path]:
    """The same; every training radiograph with its day and projection, so that people can be compared across days."""
    _, labelled = _chest(source, place)
    with (source / "images.csv").open(newline="") as file:
        days = {row["image"]: row["admission_offset"] for row in csv.DictReader(file)}
    with labelled.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "train"]
    seen = [
        {
            "image": row["image"],
            "subject": row["subject"],
            "study": days[Path(row["image"]).name],
            "modality": "XR",
        }
        for row in rows
    ]
    return _manifest(place / "visits.csv", seen), labelled


def _notes(source: Path, place: Path) -> tuple[Path, Path]:
    """Training radiographs with their notes; both lungs as the mask.  Longer sides of 256 pixels, as gloria reads them."""
    _unpack(source, place, parts=("train", "test"))
    with (source / "images.csv").open(newline="") as file:
        known = list(csv.DictReader(file))
    (place / "small").mkdir(exist_ok=True)
    rows = []
    for row in known:
        small = {}
        for kind, sampling in (
            ("images", Image.Resampling.BOX),
            ("masks", Image.Resampling.NEAREST),
        ):
            (found,) = (place / row["split"]).rglob(f"{kind}/{row['id']}.png")
            read = Image.open(found)
            if kind == "masks":
                read = read.point([255 * bool(level & LUNGS) for level in range(256)])
            size = tuple(max(1, side * 256 // max(read.size)) for side in read.size)
            small[kind] = f"small/{row['id']}-{kind}.png"
            read.resize(size, sampling).save(place / small[kind])
        rows.append(
            {
                "image": small["images"],
                "mask": small["masks"],
                "report": row["clinical_note"],
                "subject": row["patient"],
                "split": row["split"],
            }
        )
    names = ("image", "report", "subject")
    unlabelled = [{key: row[key] for key in names} for row in rows if row["split"] == "train"]
    labelled = [{key: value for key, value in row.items() if key != "report"} for row in rows]
    return _manifest(place / "scans.csv", unlabelled), _manifest(place / "labelled.csv", labelled)


def _cardiac(source: Path, place: Path) -> tuple[Path, Path]:
    """Short-axis stacks of the first two phases without labels; the first labelled, the last three to test on.

    One animal: its phases stand for subjects, so figures say nothing about other hearts.
    """
    short = source / "pig_gip17_sax_cine.nii.gz"
    labels = source / "pig_gip17_sax_lvseg.nii.gz"
    place.mkdir(parents=True, exist_ok=True)
    unlabelled = [
        {"image": str(short.resolve()), "frame": str(phase), "subject": f"phase {phase}"}
        for phase in (0, 1)
    ]
    rows = [
        {
            "image": str(short.resolve()),
            "frame": str(phase),
            "mask": str(labels.resolve()),
            "subject": f"phase {phase}",
            "split": part,
        }
        for phase, part in enumerate(("train", "val", "test", "test", "test"))
    ]
    return _manifest(place / "scans.csv", unlabelled), _manifest(place / "labelled.csv", rows)


def _planes(source: Path, place: Path) -> tuple[Path, Path]:
    """The same, the long-axis stack of each of the first two phases beside it: its planes cut the short-axis slices."""
    short, labelled = _cardiac(source, place)
    long = source / "pig_gip17_lax_cine.nii.gz"
    with short.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    beside = [{**row, "image": str(long.resolve())} for row in rows]
    return _manifest(place / "studies.csv", [*rows, *beside]), labelled


def _tumours(source: Path, place: Path) -> tuple[Path, Path]:
    """FLAIR and T1 with contrast of four patients, air darker than brain; tumours, and who trains, is chosen on and tested.

    One manifest for both: methods that are guided by masks see from it which of them must stay unseen.
    """
    place.mkdir(parents=True, exist_ok=True)
    rows = []
    for number, part in ((5, "train"), (6, "train"), (3, "val"), (4, "test")):
        name = f"brats13_pat{number:04d}"
        inside = np.asarray(nibabel.load(source / f"{name}_brainmask.nii.gz").dataobj) > 0
        for kind in ("flair", "t1c"):
            scan = nibabel.load(source / f"{name}_{kind}.nii.gz")
            array = np.asarray(scan.dataobj)
            # air is stored as 0, which is the mean of the brain
            dark = np.where(inside, array, array[inside].min() - 1).astype(np.int16)
            nibabel.save(nibabel.Nifti1Image(dark, scan.affine), place / f"{name}_{kind}.nii.gz")
        rows.append(
            {
                "image": f"{name}_flair.nii.gz;{name}_t1c.nii.gz",
                "mask": str((source / f"{name}_seg.nii.gz").resolve()),
                "subject": name,
                "split": part,
            }
        )
    labelled = _manifest(place / "labelled.csv", rows)
    return labelled, labelled


def _digits(source: Path, place: Path) -> tuple[Path, Path]:
    """Fifty digits with responses of a brain; which digit it is, of the same fifty, ten to choose on and twenty to test on.

    Each picture stands for a subject, so that few can be labelled; all responses are of one person.
    """
    trials = np.load(source / "fmri_digits.npz")
    (place / "pictures").mkdir(parents=True, exist_ok=True)
    np.save(place / "run.npy", trials["fmri_train"])
    shown = np.concatenate([trials["image_train"], trials["image_val"]])
    digits = np.concatenate([trials["label_train"], trials["label_val"]])
    pairs, rows = [], []
    for number, (picture, digit) in enumerate(zip(shown, digits, strict=True)):
        name = f"pictures/{number:02d}.png"
        Image.fromarray(picture).convert("RGB").save(place / name)
        part = "train" if number < 50 else "val" if number < 60 else "test"
        label = {1: "six", 2: "nine"}[int(digit)]
        rows.append({"image": name, "label": label, "subject": f"{number:02d}", "split": part})
        if part == "train":
            pairs.append({"image": name, "response": f"run.npy#{number}"})
    return _manifest(place / "scans.csv", pairs), _manifest(place / "labelled.csv", rows)


def _colonoscopy(source: Path, place: Path) -> tuple[Path, Path]:
    """All training frames, sequence by sequence; every frame with its polyp mask."""
    _unpack(source, place)
    rows = [
        {
            "image": f"{part}/images/{image.name}",
            "mask": f"{part}/masks/{image.stem}.png",
            "subject": image.stem.partition("_")[0],
            "split": part,
        }
        for part in PARTS
        for image in sorted((place / part / "images").iterdir())
    ]
    unlabelled = [
        {key: row[key] for key in ("image", "subject")} for row in rows if row["split"] == "train"
    ]
    scans = _manifest(place / "scans.csv", unlabelled)
    return scans, _manifest(place / "labelled.csv", rows)


def _pairs(source: Path, place: Path) -> tuple[Path, Path]:
    """Stereo pairs of a virtual camera, which stand for routine objects; every frame with its polyp mask.

    No real set at hand has pairs and masks: the pairs are drawn, the frames and their masks are real.
    """
    _, labelled = _colonoscopy(source, place)
    scans = write_stereo(place / "pairs", objects=60, patients=0, shape=(96, 128), masks=False)
    return scans, labelled


def _ultrasound(source: Path, place: Path) -> tuple[Path, Path]:
    """Every picture with a lesion and its mask, the training part to learn from; no patient is known.

    A method that learns from masks sees those that scratch is fine-tuned on; the score while it learns is of the
    validation pictures.
    """
    _unpack(source, place)
    rows = [
        {
            "image": f"{part}/images/{image.name}",
            "mask": f"{part}/masks/{image.name}",
            "subject": image.stem,
            "split": part,
        }
        for part in PARTS
        for image in sorted((place / part / "images").iterdir())
        if not image.name.startswith("normal")
    ]
    scans = [row for row in rows if row["split"] != "test"]
    return _manifest(place / "scans.csv", scans), _manifest(place / "labelled.csv", rows)


def _skin(source: Path, place: Path) -> tuple[Path, Path]:
    """All training pictures without masks; every picture with its mask and its part.  No patient is known."""
    _unpack(source, place)
    rows = [
        {
            "image": f"{part}/images/{image.name}",
            "mask": f"{part}/masks/{image.stem}.png",
            "subject": image.stem,
            "split": part,
        }
        for part in PARTS
        for image in sorted((place / part / "images").iterdir())
    ]
    return place / "train" / "images", _manifest(place / "labelled.csv", rows)


def _few_lesions(source: Path, place: Path) -> tuple[Path, Path]:
    """All training pictures, every fifteenth with its mask; these eight alone are there to be fine-tuned on.

    A method that learns from masks sees no mask in training that scratch does not see, at every seed; the score while
    it learns is of the validation pictures.
    """
    _, labelled = _skin(source, place)
    with labelled.open(newline="") as file:
        known = list(csv.DictReader(file))
    train = [row for row in known if row["split"] == "train"]
    masked = {row["subject"] for row in train[::15]}
    scans = [
        row if row["split"] == "val" or row["subject"] in masked else {**row, "mask": ""}
        for row in known
        if row["split"] != "test"
    ]
    rows = [row for row in known if row["split"] != "train" or row["subject"] in masked]
    return _manifest(place / "scans.csv", scans), _manifest(place / "few.csv", rows)


def _nuclei(source: Path, place: Path) -> tuple[Path, Path]:
    """Fluorescence images with noise of 20 grey levels added, drawn once; nuclei as numbered masks."""
    _unpack(source, place)
    with (source / "images.csv").open(newline="") as file:
        fluorescent = sorted(row["id"] for row in csv.DictReader(file) if row["type"] == "fluo")
    rows = []
    for part in PARTS:
        (place / part / "noisy").mkdir(exist_ok=True)
        for name in fluorescent:
            mask = place / part / "instances" / f"{name}.png"
            noisy = place / part / "noisy" / f"{name}.tif"
            if not mask.exists():
                continue
            if not noisy.exists():
                clean = np.asarray(Image.open(place / part / "images" / mask.name).convert("L"))
                noise = np.random.default_rng(int(name, 16)).normal(0, NOISE, clean.shape)
                tifffile.imwrite(noisy, (clean + noise).astype(np.float32))
            files = {"image": noisy, "mask": mask}
            row = {column: str(path.relative_to(place)) for column, path in files.items()}
            rows.append({**row, "subject": name, "split": part})
    return place / "train" / "noisy", _manifest(place / "labelled.csv", rows)


def _sections(source: Path, place: Path) -> tuple[Path, Path]:
    """Sections of one brain with their planes, without every fifth; all of them with the place along the brain as target.

    Each section stands for a subject, so that few can be labelled: figures say nothing about other brains.
    """
    place.mkdir(parents=True, exist_ok=True)
    with (source / "sections.csv").open(newline="") as file:
        known = list(csv.DictReader(file))
    numbers = ("ox", "oy", "oz", "ux", "uy", "uz", "vx", "vy", "vz")
    unlabelled, rows = [], []
    for number, row in enumerate(known):
        image = str((source / row["file"]).resolve())
        part = {2: "val", 4: "test"}.get(number % 5, "train")
        o, u, v = (float(row[f"{name}y"]) for name in "ouv")
        middle = o + (u + v) / 2  # from the back of the brain to the front [voxel of 25 um]
        name = Path(row["file"]).stem
        rows.append({"image": image, "target": f"{middle:.3f}", "subject": name, "split": part})
        if part != "test":
            position = " ".join(row[each] for each in numbers)
            unlabelled.append(
                {"image": image, "subject": "mouse", "split": part, "position": position}
            )
    scans = _manifest(place / "scans.csv", unlabelled)
    return scans, _manifest(place / "labelled.csv", rows)


def _clean_nuclei(source: Path, place: Path) -> tuple[Path, Path]:
    """Fluorescence images as they are; nuclei as numbered masks."""
    _unpack(source, place)
    with (source / "images.csv").open(newline="") as file:
        rows = [
            {
                "image": f"{row['split']}/images/{row['id']}.png",
                "mask": f"{row['split']}/instances/{row['id']}.png",
                "subject": row["id"],
                "split": row["split"],
            }
            for row in csv.DictReader(file)
            if row["type"] == "fluo"
        ]
    bare = [{"image": row["image"]} for row in rows if row["split"] == "train"]
    return _manifest(place / "scans.csv", bare), _manifest(place / "labelled.csv", rows)


def _unpack(source: Path, place: Path, parts: Sequence[str] = PARTS) -> None:
    for part in parts:
        if not (place / part).is_dir():
            with zipfile.ZipFile(source / f"{part}.zip") as packed:
                packed.extractall(place / part)


def _manifest(path: Path, rows: Sequence[Mapping[str, str]]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path
