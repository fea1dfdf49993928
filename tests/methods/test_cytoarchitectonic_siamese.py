"""Every must-have of the siamese network for sections, and that a small one learns where patches lie."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import default_collate

from unlabeled.data.index import index_scans
from unlabeled.data.positions import Places
from unlabeled.demo.phantoms import write_patients
from unlabeled.demo.sections import write_sections
from unlabeled.errors import DataError, OptionError
from unlabeled.methods.cytoarchitectonic_siamese import (
    CytoarchitectonicSiamese,
    Options,
    Pair,
)
from unlabeled.nn.distance import pearson
from unlabeled.nn.encoders import build_encoder
from unlabeled.nn.weights import read_weights
from unlabeled.rng import generator
from unlabeled.training.pretrain import open_store, pretrain
from unlabeled.training.selection import split_records
from unlabeled.transfer.finetune import finetune
from unlabeled.transforms.orientation import depth_about, depth_angle

QUICK = {"quiet": True, "accelerator": "cpu", "workers": 0}
SMALL = {"encoder": "resenc-tiny", "patch_size": (24, 24), "features": 8, "batch_size": 4}


@pytest.fixture(scope="module")
def brain(tmp_path_factory) -> Path:
    """A small phantom in eight sections; its manifest."""
    return write_sections(tmp_path_factory.mktemp("brain"), sections=8, radius=60)


@pytest.fixture(scope="module")
def cached(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


def method(**options) -> CytoarchitectonicSiamese:
    made = Options(**{**SMALL, **options})
    torch.manual_seed(0)
    return CytoarchitectonicSiamese(made, build_encoder(made.encoder, dims=2, in_channels=1))


def records_of(made: CytoarchitectonicSiamese, manifest: Path, cached: Path):
    kind, sources = CytoarchitectonicSiamese, index_scans(manifest).sources
    store = open_store(kind, made.options, cached)
    return store.prepare(sources, rule=kind.intensity(made.options)).records


def places(made: CytoarchitectonicSiamese, manifest: Path, cached: Path) -> Places:
    return made.brains(records_of(made, manifest, cached))[0]


def batch_of(made: CytoarchitectonicSiamese, found: Places, count: int = 4) -> Pair:
    return default_collate([made.views(found, generator(n, "views")) for n in range(count)])


def run(place: Path, manifest: Path, cached: Path, **options):
    given = {**SMALL, "steps": 3, "samples_per_scan": 4, **options}
    return pretrain(
        "cytoarchitectonic-siamese", manifest, place / "run", cache=cached, **QUICK, **given
    )


def rows_of(manifest: Path) -> list[dict[str, str]]:
    with manifest.open(newline="") as file:
        return list(csv.DictReader(file))


def two_brains(place: Path) -> Path:
    """Two phantoms in one manifest."""
    rows = []
    for number, name in enumerate("ab"):
        manifest = write_sections(place / name, sections=4, radius=30, brain=name, seed=number)
        rows += [
            {**row, "image": f"{name}/{row['image']}", "mask": f"{name}/{row['mask']}"}
            for row in rows_of(manifest)
        ]
    with (place / "both.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return place / "both.csv"


@pytest.mark.parametrize("way", ["straight", "surface"])
def test_must_have_1_both_patches_are_of_one_brain_and_lie_in_its_cortex(brain, cached, way):
    surface = str(brain.parent / "surface.npz") if way == "surface" else None
    made = method(surface=surface, cortex="depth", points=80)
    found = places(made, brain, cached)
    for number in range(40):
        rng = generator(number)
        one = found.draw(rng)
        other = found.draw_partner(one, rng)
        for place in (one, other):
            across = float(np.hypot(*place.position[:2]))
            assert (0.99 if surface else 0.6) < across < (1.01 if surface else 1.41), (
                "in the cortex"
            )
            level = (place.section + 0.5) / 8 * 2 - 1
            assert abs(place.position[2] - level) < (0.13 if surface else 1e-6)


def test_must_have_1_brains_do_not_mix(tmp_path, cached):
    made = method()
    records = records_of(made, two_brains(tmp_path), cached)
    listed = made.brains(records)
    assert len(listed) == len(records) == 8
    assert [{r.subject for r in found.records} for found in listed] == [
        {record.subject} for record in records
    ]
    assert listed[0] is not listed[-1]


def test_must_have_4_symmetric_and_the_bias_for_identical_patches():
    for kind in ("l1_weighted", "l2_weighted", "l2_sum"):
        made = method(head=kind).eval()
        one, two = torch.randn(2, 3, 1, 24, 24, generator=generator(0))
        with torch.no_grad():
            there, _ = made.predict(pair(one, two))
            back, _ = made.predict(pair(two, one))
            alike, _ = made.predict(pair(one, one))
        assert torch.allclose(there, back, atol=1e-6)
        bias = 0.0 if made.apart.weights is None else float(made.apart.weights.bias.detach())
        assert torch.allclose(alike, torch.full((3,), bias), atol=1e-6)
        assert not torch.allclose(there, alike, atol=1e-6)


def pair(first: torch.Tensor, second: torch.Tensor) -> Pair:
    many = len(first)
    return Pair(first, second, torch.zeros(many), torch.zeros(many, 2, 3), torch.zeros(many) > 0)


def test_must_have_5_one_network_and_one_linear_layer_see_both_patches():
    made = method().eval()
    one, two = torch.randn(2, 3, 1, 24, 24, generator=generator(0))
    with torch.no_grad():
        _, there = made.predict(pair(one, two))
        _, back = made.predict(pair(two, one))
    assert torch.allclose(there, back.flip(1), atol=1e-6)
    seen = []
    made.encoder.register_forward_hook(lambda _, given, __: seen.append(len(given[0])))
    made.predict(pair(one, two))
    assert seen == [6]
    assert [name for name, _ in made.named_children()] == ["encoder", "feature", "apart", "locate"]


def test_must_have_6_the_loss_of_the_worked_example():
    """Residuals 0.4 of the distance and (0.4, -2, 0) of one position, with a delta of 1: 0.08 + 1.58."""
    made = method(delta=1.0)
    batch = pair(torch.zeros(1, 1, 24, 24), torch.zeros(1, 1, 24, 24))
    batch = batch._replace(distance=torch.tensor([2.4]), places=torch.ones(1, 2, 3))
    off = torch.tensor([[[0.4, -2.0, 0.0], [0.0, 0.0, 0.0]]])
    made.predict = lambda batch: (torch.tensor([2.0]), batch.places + off)
    (update,) = made.step(batch)
    assert float(update.loss) == pytest.approx(1.66)
    assert float(update.shows["distance loss"]) == pytest.approx(0.08)
    assert float(update.shows["position loss"]) == pytest.approx(1.58)
    made = method(delta=30.0)
    found = made.penalty(torch.tensor([10.0, -50.0]), torch.zeros(2))
    assert found.tolist() == [50.0, 1050.0]
    assert method(loss="squared").penalty(torch.tensor([3.0]), torch.zeros(1)).tolist() == [9.0]


def test_must_have_6_without_alpha_positions_give_no_gradient(brain, cached):
    for alpha, reached in ((0.0, False), (1.0, True)):
        made = method(alpha=alpha, scale=3.0)
        (update,) = made.step(batch_of(made, places(made, brain, cached)))
        update.loss.backward()
        gradient = made.locate.weight.grad
        assert (gradient is not None and bool(gradient.any())) is reached


def test_must_have_7_places_are_even_over_the_area_whatever_the_section(brain, cached):
    """A section that shows half as much tissue is drawn from half as often."""
    made = method(cortex="depth")
    found = places(made, brain, cached)
    drawn = [found.draw(generator(n)) for n in range(1200)]
    angles = np.array([math.atan2(p.position[1], -p.position[0]) for p in drawn]) / math.pi
    counts, _ = np.histogram(angles, bins=6, range=(0, 1))
    assert counts.min() > 0.8 * counts.mean()
    kept = found.section != 3
    kept |= np.arange(len(found)) % 2 == 0
    fewer = Places(
        found.records,
        found.planes,
        found.section[kept],
        found.at[kept],
        found.positions[kept],
        np.arange(1.0, kept.sum() + 1),
    )
    sections = [fewer.draw(generator(n)).section for n in range(1500)]
    share = sections.count(3) / (sum(s != 3 for s in sections) / 7)
    assert 0.35 < share < 0.65


def test_must_have_8_the_mean_distance_and_the_correlation_are_told(brain, cached):
    made = method(scale=2.0).eval()
    found = places(made, brain, cached)
    made.measure(found.records)
    assert 0.5 < float(made.mean) * 2.0 < 1.6
    batch = batch_of(made, found, 16)
    made.predict = lambda batch: (batch.distance * 0.5 + 0.1, batch.places)
    scores = {name: float(value) for name, value in made.score(batch).items()}
    assert scores["correlation"] == pytest.approx(1.0, abs=1e-5)
    off = (made.mean - batch.distance).abs().mean() * 2.0
    assert scores["error_mean"] == pytest.approx(float(off))
    assert scores["error_place"] == 0
    assert float(pearson(torch.ones(3), torch.arange(3.0))) == 0


def test_must_have_9_errors_within_and_across_sections_are_told_apart(brain, cached):
    made = method(scale=2.0).eval()
    batch = batch_of(made, places(made, brain, cached), 32)
    assert 2 < int(batch.same.sum()) < 30
    made.predict = lambda batch: (batch.distance + torch.where(batch.same, 0.1, 0.3), batch.places)
    scores = {name: float(value) for name, value in made.score(batch).items()}
    assert scores["error_same_section"] == pytest.approx(0.2)
    assert scores["error_other_section"] == pytest.approx(0.6)


def test_must_have_10_the_segmenter_starts_with_the_very_encoder(tmp_path, brain, cached):
    done = run(tmp_path, brain, cached)
    carried, _ = read_weights(done.encoder)
    assert {name.partition(".")[0] for name in carried} == {"encoder"}
    rows = rows_of(brain)
    for number, row in enumerate(rows):
        depth = np.asarray(Image.open(brain.parent / row["mask"]))
        Image.fromarray((depth > 0).astype(np.uint8)).save(tmp_path / f"{number}.png")
        row |= {"subject": f"s{number}", "mask": f"{number}.png"}
        row["image"] = str(brain.parent / row["image"])
    labelled = tmp_path / "labelled.csv"
    with labelled.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["image", "mask", "subject"], extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    finetune(
        "segment", labelled, tmp_path / "fine", init=tmp_path / "run", lr=1e-12, steps=1, epochs=1,
        batch_size=2, patch_size=(32, 32), cache=cached, accelerator="cpu", quiet=True, workers=0,
    )  # fmt: skip
    kept, _ = read_weights(tmp_path / "fine" / "task.safetensors")
    for name, tensor in carried.items():
        (there,) = [value for held, value in kept.items() if f".{held}".endswith(f".{name}")]
        assert torch.allclose(there, tensor, atol=1e-6), name
    assert not [name for name in kept if "locate" in name or "apart" in name]


def test_must_have_11_the_run_says_what_its_distances_are(tmp_path, brain, cached):
    done = run(tmp_path, brain, cached)
    assert "Euclidean distance" in done.loaded[-1]
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    assert "Euclidean distance" in " ".join(facts["loaded"])
    surface = brain.parent / "surface.npz"
    assert method(surface=str(surface)).notes()[0].startswith("geodesic distance")


def test_must_have_11_patches_are_turned_along_depth_and_stay_without_it(brain, cached):
    """In the ring depth points at the axis; turned, every patch darkens and brightens from left to right."""
    lying, turned = (method(cortex=cortex, least_tissue=0.0).eval() for cortex in ("mask", "depth"))
    found = places(turned, brain, cached)
    ways = []
    for number in range(30):
        place = found.draw(generator(number))
        if place.position[1] < 0.3:
            continue  # where the ring is cut off
        section = found.records[place.section]
        angle = depth_angle(depth_about(section, place.at, (24, 24)))
        inwards = math.atan2(place.position[1], -place.position[0])  # depth runs against the radius
        assert math.cos(-angle - inwards) > 0.9
        start = [round(middle - 11.5) for middle in place.at]
        plain = section.patch(start, (24, 24))
        assert torch.equal(lying.cut(found, place, generator(0)), plain)
        assert not torch.equal(turned.cut(found, place, generator(0)), plain)
        depth = torch.from_numpy(depth_about(section, place.at, (24, 24)).astype(np.float32))
        ways.append(depth.mean().item())
    assert min(ways) > 0


def test_must_have_12_sections_are_held_out_whole(tmp_path, brain, cached, monkeypatch):
    seen = {}
    original = CytoarchitectonicSiamese.brains

    def spying(self, records):
        names = {record.source.name for record in records}
        seen.setdefault("parts", set()).add(frozenset(names))
        return original(self, records)

    monkeypatch.setattr(CytoarchitectonicSiamese, "brains", spying)
    run(tmp_path, brain, cached)
    held, training = sorted(seen["parts"], key=len)
    assert held
    assert not held & training
    assert len(held | training) == 8


def test_patches_of_one_section_are_held_out_together():
    class Row:
        def __init__(self, name, study):
            self.subject, self.study = "b", study
            self.source = type("S", (), {"name": name, "split": None, "family": ""})()

    rows = [Row(f"{s}-{n}", f"b/{s}") for s in range(10) for n in range(3)]
    training, held = split_records(rows, 0, by="section")
    assert len(held) == 3
    assert not {r.study for r in training} & {r.study for r in held}


def test_distances_of_a_surface_are_along_it(brain, cached):
    made = method(surface=str(brain.parent / "surface.npz"), cortex="depth", points=120)
    found = places(made, brain, cached)
    straight = np.linalg.norm(found.positions[:, None] - found.positions[None], axis=2)
    assert (found.along >= straight - 1e-4).all()
    assert found.along.max() > 1.1 * straight.max()
    angle = np.arctan2(found.positions[:, 1], -found.positions[:, 0])
    true = np.hypot(angle[:, None] - angle, found.positions[:, None, 2] - found.positions[:, 2])
    far = true > 0.5
    assert np.abs(found.along / np.where(far, true, 1) - 1)[far].max() < 0.06


def test_small_patches_with_positions_of_their_own(tmp_path, cached):
    """The other form of data: a file a patch, three numbers each."""
    rng = np.random.default_rng(0)
    rows = ["image,subject,study,position"]
    for number in range(12):
        level = rng.integers(0, 255, (24, 24)).astype(np.uint8)
        Image.fromarray(level).save(tmp_path / f"p{number}.png")
        rows.append(f"p{number}.png,b,s{number // 3},{number} 0 {number % 3}")
    (tmp_path / "patches.csv").write_text("\n".join(rows) + "\n")
    made = method()
    found = places(made, tmp_path / "patches.csv", cached)
    assert len(found) == 12
    one = found.draw(generator(1))
    assert one.at == (11.5, 11.5)
    assert made.cut(found, one, generator(0)).shape == (1, 24, 24)
    done = run(tmp_path, tmp_path / "patches.csv", cached)
    assert math.isfinite(done.result.score["error"])


def test_scale_and_centre_are_measured_once(brain, cached):
    made = method()
    records = records_of(made, brain, cached)
    suited = CytoarchitectonicSiamese.suit(made.options, records)
    assert 2.5 < suited.scale < 3.3
    assert CytoarchitectonicSiamese.suit(suited, records) == suited
    surface = str(brain.parent / "surface.npz")
    along = CytoarchitectonicSiamese.suit(method(surface=surface).options, records)
    assert along.reach == pytest.approx(0.125)
    assert along.scale > suited.scale
    ready = CytoarchitectonicSiamese(suited, made.encoder)
    batch = batch_of(ready, places(ready, brain, cached), 16)
    assert float(batch.distance.max()) <= 1
    assert float(batch.places.abs().max()) <= 0.6


def test_a_turn_of_its_own_and_another_stain(brain, cached):
    """In training patches are turned and stained anew each time; held-out ones are as they are."""
    made = method(rotation=90.0)
    found = places(made, brain, cached)
    place = found.draw(generator(0))
    first, second = (made.cut(found, place, generator(n)) for n in range(2))
    assert first.shape == second.shape == (1, 24, 24)
    assert not torch.allclose(first, second)
    made.eval()
    first, second = (made.cut(found, place, generator(n)) for n in range(2))
    assert torch.equal(first, second)
    adam, schedule = made.optimiser("main", [made])
    assert type(adam) is torch.optim.Adam
    assert adam.defaults["lr"] == 1e-3
    assert schedule(5, 10) == 1


def test_preview_shows_patches_and_bars(brain, cached):
    made = method(scale=3.0).eval()
    batch = batch_of(made, places(made, brain, cached))
    with torch.no_grad():
        shown = made.preview(batch)
    assert list(shown) == [
        "first patch",
        "second patch",
        "distance, true",
        "distance, predicted",
    ]
    assert all(each.min() >= 0 and each.max() <= 1 for each in shown.values())
    filled = shown["distance, true"].mean((1, 2, 3))
    assert torch.allclose(filled, batch.distance, atol=1.5 / 24)


@pytest.mark.parametrize(
    ("options", "fact", "remedy"),
    [
        ({"encoder": "section-cnn"}, "635 pixels or more", "--patch-size 635 635"),
        ({"patch_size": (24,)}, "1 edges", "--patch-size 24 24"),
        ({"gain": (1.2, 0.8)}, "--gain 1.2 0.8 falls", "--gain 0.8 1.2"),
        ({"inflated": "a.gii"}, "--inflated", "--surface"),
        ({"distance": "inflated"}, "--distance inflated", "--inflated"),
    ],
)
def test_wrong_options_are_named(options, fact, remedy):
    with pytest.raises(OptionError, match=fact) as fault:
        method(**options)
    assert remedy in fault.value.remedy


def test_wrong_data_are_refused(tmp_path, brain, cached):
    write_patients(tmp_path / "flat", patients=4, shape=(40, 40))
    with pytest.raises(DataError, match="position"):
        run(tmp_path, tmp_path / "flat", cached)
    with pytest.raises(DataError, match="is of one brain, and the sections are of 2"):
        run(tmp_path, two_brains(tmp_path), cached, surface=str(brain.parent / "surface.npz"))
    with pytest.raises(DataError, match="is no file"):
        run(tmp_path, brain, cached, surface="no.gii")
    with pytest.raises(DataError, match="no place where a patch of 200 x 200 pixels"):
        run(tmp_path, brain, cached, patch_size=(200, 200))
    away = tmp_path / "away.npz"
    with np.load(brain.parent / "surface.npz") as held:
        np.savez(away, vertices=held["vertices"] + 50, triangles=held["triangles"])
    with pytest.raises(DataError, match="no vertex of"):
        run(tmp_path, brain, cached, surface=str(away))
    bare = tmp_path / "bare.csv"
    rows = rows_of(brain)
    images = "\n".join(f'{brain.parent / row["image"]},b,"{row["position"]}"' for row in rows)
    bare.write_text(f"image,subject,position\n{images}\n")
    with pytest.raises(DataError, match="has no mask"):
        run(tmp_path, bare, cached, cortex="depth")
    assert not list((tmp_path / "run").glob("encoder*"))


PROOF = {
    "encoder": "resenc-tiny",
    "patch_size": (40, 40),
    "features": 32,
    "batch_size": 16,
    "lr": 1e-3,
    "held_out_batches": 16,
    "samples_per_scan": 32,
    "score_every": 100,
}


def learn(place: Path, manifest: Path, **options) -> dict[str, float]:
    done = run(place, manifest, place / "cache", **{**PROOF, **options})
    return done.result.score


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_small_scale_proof_on_a_phantom(tmp_path, proof):
    """On sections never seen, distances along the surface are told from the layers of two patches."""
    manifest = write_sections(tmp_path / "brain", sections=24)
    surface = str(manifest.parent / "surface.npz")
    scores = learn(tmp_path, manifest, steps=400, surface=surface, cortex="depth")
    proof("cytoarchitectonic-siamese", data="phantom", **scores)
    assert scores["correlation"] > 0.75
    assert scores["error"] < 0.65 * scores["error_mean"]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_where_positions_are_false_nothing_is_learnt(tmp_path, proof, monkeypatch):
    """Where distances are those of other pairs, the error is no better than that of the mean."""
    original = CytoarchitectonicSiamese.views

    def lying(self, record, rng):
        made = original(self, record, rng)
        other = original(self, record, rng)
        return made._replace(distance=other.distance, places=other.places)

    monkeypatch.setattr(CytoarchitectonicSiamese, "views", lying)
    manifest = write_sections(tmp_path / "brain", sections=24)
    surface = str(manifest.parent / "surface.npz")
    scores = learn(tmp_path, manifest, steps=150, surface=surface, cortex="depth")
    proof(
        "cytoarchitectonic-siamese", data="phantom",
        error_of_false_positions=scores["error"], correlation_of_false_positions=scores["correlation"],
    )  # fmt: skip
    assert scores["error"] > 0.9 * scores["error_mean"]
    assert scores["correlation"] < 0.3


def real_sections(shared_data: Path, place: Path) -> Path:
    """The manifest of the mouse brain: sections up to 130 to learn from, with every fourth to measure on."""
    source = shared_data / "brain-sections"
    with (source / "sections.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if int(row["section_number"]) <= 130]
    names = ("ox", "oy", "oz", "ux", "uy", "uz", "vx", "vy", "vz")
    lines = ["image,subject,split,position"]
    for number, row in enumerate(rows):
        part = "val" if number % 4 == 2 else "train"
        frame = " ".join(row[name] for name in names)
        lines.append(f"{source / row['file']},mouse,{part},{frame}")
    place.mkdir(parents=True, exist_ok=True)
    (place / "sections.csv").write_text("\n".join(lines) + "\n")
    return place / "sections.csv"


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_small_scale_proof_on_real_sections(shared_data, tmp_path, proof):
    """On sections of a mouse brain never seen, between neighbours that were, straight distances are told in part."""
    manifest = real_sections(shared_data, tmp_path / "mouse")
    scores = learn(tmp_path, manifest, steps=400, patch_size=(64, 64), samples_per_scan=64)
    proof("cytoarchitectonic-siamese", data="brain-sections", **scores)
    assert scores["error"] < 0.85 * scores["error_mean"]
