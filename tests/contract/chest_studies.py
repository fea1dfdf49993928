"""Studies of two views each, with reports of a few words: lungs, a heart, and shadows that the report names."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

EDGE = 64  # [pixel]
SIDES = ("left", "right")  # of the picture
ZONES = ("upper", "middle", "lower")
NONE = ("no nodule in the lungs", "the lungs are clear")


@dataclass(frozen=True)
class Shadow:
    """A nodule or a mass in one of six places."""

    side: int
    zone: int
    large: bool

    @property
    def sentence(self) -> str:
        kind = "large mass" if self.large else "small nodule"
        return f"{kind} in the {SIDES[self.side]} {ZONES[self.zone]} zone"


@dataclass(frozen=True)
class Chest:
    """What both views of a study show."""

    seed: int
    shadows: tuple[Shadow, ...]
    wide_heart: bool

    @property
    def report(self) -> str:
        words = list(dict.fromkeys(each.sentence for each in self.shadows)) or [
            NONE[self.seed % len(NONE)]
        ]
        words.append("the heart is enlarged" if self.wide_heart else "normal size of the heart")
        return " . ".join(words) + " ."

    def view(self, number: int) -> np.ndarray:
        """Draw ``rows columns``, 8 bits: noise, brightness and a small shift are those of the view."""
        rng = np.random.default_rng([self.seed, number])
        y, x = np.mgrid[:EDGE, :EDGE].astype(float)
        y, x = y - rng.uniform(-2, 2), x - rng.uniform(-2, 2)
        image = np.full((EDGE, EDGE), 130.0)
        for centre in (18, 46):
            image[((x - centre) / 11) ** 2 + ((y - 32) / 25) ** 2 <= 1] = 50
        image[((x - 34) / (15 if self.wide_heart else 8)) ** 2 + ((y - 44) / 9) ** 2 <= 1] = 150
        for each in self.shadows:
            row, column = 16 + 15 * each.zone, (18, 46)[each.side]
            image[(y - row) ** 2 + (x - column) ** 2 <= (8 if each.large else 4.5) ** 2] = 235
        noisy = image * rng.uniform(0.9, 1.1) + rng.normal(0, 8, image.shape)
        return noisy.clip(0, 255).astype(np.uint8)


def draw_chest(seed: int) -> Chest:
    """Draw none to two shadows in places of their own, and a heart."""
    rng = np.random.default_rng(seed)
    places = rng.permutation(6)[: rng.choice((0, 1, 1, 2, 2, 2))].tolist()
    shadows = [Shadow(place % 2, place // 2, bool(rng.integers(2))) for place in places]
    ordered = tuple(sorted(shadows, key=lambda each: (each.side, each.zone)))
    return Chest(seed, ordered, bool(rng.integers(2)))


def write_studies(
    folder: Path, count: int, *, first: int = 0, views: int = 2, held_out: int = 0
) -> Path:
    """Write studies and a manifest with their reports, the last of them as held out where wanted; give the manifest."""
    rows = []
    for seed in range(first, first + count):
        chest = draw_chest(seed)
        for number in range(views):
            name = f"chest{seed:04d}-{number}.png"
            Image.fromarray(chest.view(number)).save(folder / name)
            row = {"image": name, "subject": f"p{seed:04d}", "study": f"v{seed:04d}"}
            row |= {"report": chest.report}
            if held_out:
                row["split"] = "train" if seed < first + count - held_out else "val"
            rows.append(row)
    manifest = folder / "studies.csv"
    with manifest.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return manifest
