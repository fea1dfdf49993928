"""Every must-have of body part recognition, and that a small network learns the order of slices of real scans."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hippocampi import hippocampi
from safetensors.torch import load_file

from unlabeled.data.index import index_scans
from unlabeled.demo.phantoms import write_manifest, write_patients
from unlabeled.errors import DataError, OptionError
from unlabeled.methods import body_part_recognition as module
from unlabeled.methods.body_part_recognition import BodyPartRecognition, Options, Pair, body_planes
from unlabeled.nn.encoders import build_encoder
from unlabeled.rng import generator
from unlabeled.training.pretrain import open_store, pretrain
from unlabeled.transfer.finetune import finetune
from unlabeled.transfer.predict import predict

QUICK = {"quiet": True, "accelerator": "cpu", "workers": 0}
SMALL = {"encoder": "resenc-tiny", "patch_size": (16, 16), "batch_size": 4, "hidden": 8}
HEADS = pytest.mark.parametrize("head", ["joint", "score"])


def method(**options) -> BodyPartRecognition:
    torch.manual_seed(0)
    options = {**SMALL, "spacing": None, **options}
    encoder = build_encoder(options["encoder"], dims=2, in_channels=1)
    return BodyPartRecognition(Options(**options), encoder)


def staircase(planes: int = 12) -> np.ndarray:
    """A volume whose slices are brighter the higher they lie, nowhere empty."""
    levels = np.linspace(100, 200, planes)
    body = np.zeros((16, 16, planes), np.int16)
    body[3:13, 2:12] = levels
    body[5, 4:8], body[6, 4:8] = (
        50,
        250,
    )  # ends of the window: every slice differs from an empty one
    return body


def save(path: Path, array: np.ndarray, thickness: float = 3.0, affine=None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if affine is None:
        affine = np.diag([2.0, 2.0, thickness, 1.0])
        affine[:3, 3] = -10.0
    nibabel.save(nibabel.Nifti1Image(array, affine), path)
    return path


@pytest.fixture
def prepare(tmp_path):
    """Prepare what lies in the folder of scans as the method does; records by name."""

    def made(**options):
        options = Options(**{**SMALL, "spacing": None, **options})
        store = open_store(BodyPartRecognition, options, tmp_path / "cache")
        sources = index_scans(tmp_path / "scans").sources
        done = store.prepare(sources, rule=BodyPartRecognition.intensity(options))
        assert not done.quarantine
        return {record.source.name: record for record in done.records}

    return made


def plane_of(record, image: torch.Tensor) -> int:
    """Find the plane that an unchanged slice of 16 x 16 pixels is."""
    whole = record.patch((0, 0, 0), record.space)
    (found,) = (n for n in range(record.space[2]) if torch.equal(whole[..., n], image))
    return found


def test_must_have_1_both_slices_are_of_one_volume_and_different(tmp_path, prepare):
    for number in range(2):
        save(tmp_path / "scans" / f"p{number}.nii.gz", staircase() + np.int16(7 * number))
    made = method().eval()
    for record in prepare().values():
        seen = set()
        for seed in range(60):
            pair = made.views(record, generator(seed))
            first, second = plane_of(record, pair.first), plane_of(record, pair.second)
            assert first != second
            assert pair.above == (first > second)
            assert pair.gap == pytest.approx(3.0 * abs(first - second))
            seen |= {first, second}
        assert seen == set(range(12))


def test_must_have_2_half_of_the_pairs_show_the_upper_slice_first(tmp_path, prepare):
    save(tmp_path / "scans" / "p.nii.gz", staircase())
    (record,) = prepare().values()
    made = method(patch_size=(2, 2)).eval()
    labels = [int(made.views(record, generator(1, n)).above) for n in range(2000)]
    assert np.mean(labels) == pytest.approx(0.5, abs=0.02)


@HEADS
def test_must_have_3_swapping_the_slices_swaps_the_label_and_the_answer(head):
    made = method(head=head).eval()
    with torch.no_grad():
        for parameter in made.head.parameters():
            parameter.normal_()
    first, second = torch.rand(2, 6, 1, 16, 16)
    above, gap = torch.tensor([0, 1, 1, 0, 1, 0]), torch.ones(6)
    one, other = Pair(first, second, above, gap), Pair(second, first, 1 - above, gap)
    margins = [made.compare(each).diff(dim=1)[:, 0] for each in (one, other)]
    if head == "score":
        assert torch.equal(margins[0], -margins[1])
        losses = [float(next(made.step(each)).loss.detach()) for each in (one, other)]
        assert losses[0] == pytest.approx(losses[1], abs=1e-6)
    else:
        assert not torch.allclose(margins[0], -margins[1])
    a, b = made.describe(first), made.describe(second)
    torch.testing.assert_close(made.above(a, b), 1 - made.above(b, a))
    scores = [made.score(each) for each in (one, other)]
    assert all(torch.equal(scores[0][name], scores[1][name]) for name in scores[0])


def test_must_have_4_the_affine_says_what_is_up(tmp_path, prepare):
    array = staircase()
    affine = np.diag([2.0, 2.0, 3.0, 1.0])
    affine[:3, 3] = -10.0
    turned = affine.copy()
    turned[:, 2] *= -1
    turned[2, 3] += 3.0 * 11
    save(tmp_path / "scans" / "plain.nii.gz", array, affine=affine)
    save(tmp_path / "scans" / "both.nii.gz", array[..., ::-1], affine=turned)
    save(tmp_path / "scans" / "array.nii.gz", array[..., ::-1], affine=affine)
    records = prepare()
    made = method().eval()
    for seed in range(20):
        plain, both, alone = (
            made.views(records[f"{name}.nii.gz"], generator(seed))
            for name in ("plain", "both", "array")
        )
        assert all(map(torch.equal, plain, both))
        brighter = plain.first.mean() > plain.second.mean()
        assert plain.above == brighter
        assert alone.above == (alone.first.mean() < alone.second.mean())


@pytest.mark.parametrize("thickness", [0.7, 2.5, 5.0])
def test_must_have_5_gaps_are_millimetres_whatever_the_thickness(tmp_path, prepare, thickness):
    save(tmp_path / "scans" / "p.nii.gz", staircase(round(60 / thickness)), thickness)
    (record,) = prepare().values()
    made = method(least_gap=8.0, most_gap=20.0).eval()
    pair = made.views(record, generator(0))
    apart = plane_of(record, pair.first) - plane_of(record, pair.second)
    assert pair.gap == pytest.approx(thickness * abs(apart))
    gaps = [float(made.views(record, generator(seed)).gap) for seed in range(200)]
    assert 8.0 - 1e-4 <= min(gaps) < 8.0 + thickness
    assert 20.0 + 1e-4 >= max(gaps) > 20.0 - thickness


def test_must_have_6_one_encoder_sees_both_slices():
    made = method().eval()
    image = torch.rand(3, 1, 16, 16)
    both = made.describe(torch.cat([image, image]))
    assert torch.equal(*both.chunk(2))
    names = {name.partition(".")[0] for name, _ in made.named_parameters()}
    assert names == {"encoder", "head"}
    assert made.carries() == {"encoder": made.encoder}


@HEADS
@pytest.mark.parametrize("encoder", ["resenc-tiny", "resnet18"])
def test_must_have_7_a_fresh_network_knows_nothing(head, encoder):
    made = method(head=head, encoder=encoder, patch_size=(48, 48), hidden=256)
    pair = Pair(
        torch.rand(8, 1, 48, 48), torch.rand(8, 1, 48, 48) ** 3, torch.arange(8) % 2, torch.ones(8)
    )
    assert float(next(made.step(pair)).loss.detach()) == pytest.approx(math.log(2), abs=0.05)


def test_worked_examples_of_the_loss():
    made, loss = method(), {1: 0.371101, 0: 1.171101}
    blank = torch.zeros(1, 1, 16, 16)
    for label, wanted in loss.items():
        pair = Pair(blank, blank, torch.tensor([label]), torch.ones(1))
        made.compare = lambda batch: torch.tensor([[0.3, 1.1]])
        assert float(next(made.step(pair)).loss) == pytest.approx(wanted, abs=1e-6)
    scored = method(head="score")
    with torch.no_grad():
        scored.head.layers.weight.zero_()[0, 0] = 1.0
    one, other = torch.zeros(2, 1, scored.encoder.channels[-1])
    one[0, 0] = 0.8
    for label, wanted in loss.items():
        found = F.cross_entropy(scored.head(one, other), torch.tensor([label]))
        assert float(found.detach()) == pytest.approx(wanted, abs=1e-6)


def test_must_have_8_accuracy_is_told_by_distance():
    made = method()
    made.above = lambda first, second: torch.tensor([0.9, 0.2, 0.6, 0.7, 0.6, 0.3])
    image = torch.zeros(6, 1, 16, 16)
    gap = torch.tensor([50.0, 10.0, 12.0, 30.0, 20.0, 60.0])
    scores = made.score(Pair(image, image, torch.tensor([1, 1, 0, 1, 0, 0]), gap))
    told = {name: float(value) for name, value in scores.items()}
    assert told == pytest.approx(
        {
            "accuracy": 0.5,
            "chance": 0.5,
            "near": 0.0,
            "near gap": 11.0,
            "middle": 0.5,
            "middle gap": 25.0,
            "far": 1.0,
            "far gap": 55.0,
        }
    )


def test_must_have_9_empty_slices_are_never_drawn(tmp_path, prepare):
    array = staircase(14)
    array[..., [0, 5, 13]] = 0
    array[..., 12] = 0
    array[5, 5, 12] = 150  # less than one pixel in a hundred
    save(tmp_path / "scans" / "p.nii.gz", array)
    (record,) = prepare().values()
    made = method().eval()
    kept = [1, 2, 3, 4, 6, 7, 8, 9, 10, 11]
    assert body_planes(record, made.options).tolist() == kept
    drawn = set()
    for seed in range(150):
        pair = made.views(record, generator(seed))
        drawn |= {plane_of(record, pair.first), plane_of(record, pair.second)}
    assert drawn == set(kept)


def run(place: Path, scans: Path | None = None, **options):
    options = {**SMALL, "spacing": (1.0, 1.0, 1.0), "samples_per_scan": 1, **options}
    return pretrain(
        "body-part-recognition", scans or place / "scans", place / "run", cache=place / "cache",
        epochs=options.pop("epochs", 1), **QUICK, **options,
    )  # fmt: skip


@pytest.fixture
def placed(tmp_path):
    """Eight patients, and a manifest that says how high the lowest slice of each lies."""
    write_patients(tmp_path / "scans", patients=8, shape=(20, 20, 20))
    parts = ("train",) * 5 + ("val", "test", "test")
    rows = [
        {
            "image": f"scans/phantom-{number:03d}.nii.gz",
            "subject": f"p{number}",
            "split": part,
            "target": -10 + number,
        }
        for number, part in enumerate(parts)
    ]
    return write_manifest(tmp_path / "placed.csv", rows)


def test_must_haves_10_and_11_slices_are_localised_by_the_pretrained_encoder(tmp_path, placed):
    """With a warm-up that lasts, the encoder stands still: what it ends with is what it was given."""
    run(tmp_path, steps=2)
    done = finetune(
        "localise", placed, tmp_path / "task", init=tmp_path / "run", cache=tmp_path / "cache",
        steps=2, epochs=1, batch_size=4, spacing=(1.0, 1.0, 1.0), warmup=1.0, test=True, **QUICK,
    )  # fmt: skip
    before, after = (load_file(tmp_path / name / "encoder.safetensors") for name in ("run", "task"))
    shared = [name for name in before if name.startswith("encoder.")]
    assert len(shared) > 10
    assert all(torch.equal(before[name], after[name]) for name in shared)
    task = load_file(tmp_path / "task" / "task.safetensors")
    assert {name.partition(".")[0] for name in task} == {"encoder", "head"}
    told = done.metrics["test"].measures
    assert {"error mm", "error slices"} < told.keys()
    assert {"error mm of the training mean", "error slices of the training mean"} < told.keys()
    rows = predict(tmp_path / "task", tmp_path / "scans", tmp_path / "out", quiet=True).rows
    assert len(rows) == 8
    assert (tmp_path / "out" / rows[0]["picture"]).exists()


def test_must_have_12_a_subject_is_learnt_from_or_scored_on(tmp_path, monkeypatch):
    write_patients(tmp_path / "scans", patients=8, shape=(20, 20, 20))
    rows = [
        {"image": f"scans/phantom-{number:03d}.nii.gz", "subject": f"p{number // 2}"}
        for number in range(8)
    ]
    manifest = write_manifest(tmp_path / "scans.csv", rows)
    drawn: dict[bool, set[str]] = {True: set(), False: set()}
    views = BodyPartRecognition.views

    def watched(self, record, rng):
        drawn[self.training].add(record.source.name)
        return views(self, record, rng)

    monkeypatch.setattr(BodyPartRecognition, "views", watched)
    run(tmp_path, manifest, epochs=4, held_out_batches=4)
    subjects = [{int(name[-10:-7]) // 2 for name in drawn[part]} for part in (True, False)]
    assert all(subjects)
    assert not subjects[0] & subjects[1]


def test_slices_are_changed_in_training_alone_each_by_itself(tmp_path, prepare):
    save(tmp_path / "scans" / "p.nii.gz", np.repeat(staircase(12)[..., 6:7], 12, axis=2))
    (record,) = prepare().values()
    still = method(rotation=0, shift=0, zoom=(1, 1), gain=(1, 1), offset=0, p_flip=0)
    plain = still.views(record, generator(0)).first
    for made in (method(), still):
        pairs = [made.views(record, generator(seed)) for seed in range(6)]
        changed = made is not still
        assert torch.equal(pairs[0].first, pairs[0].second) != changed
        assert all(torch.allclose(pair.first, plain, atol=1e-6) != changed for pair in pairs)
    assert torch.equal(method().eval().views(record, generator(0)).first, plain)
    flips = method(rotation=0, shift=0, zoom=(1, 1), gain=(1, 1), offset=0, p_flip=1)
    flipped = flips.views(record, generator(0)).first
    torch.testing.assert_close(flipped, plain.flip(1))  # left to right is the first axis


def test_volumes_are_refused_that_have_no_pair(tmp_path, prepare):
    save(tmp_path / "scans" / "thin.nii.gz", staircase(3), 2.0)
    (record,) = prepare().values()
    with pytest.raises(module.ScanError, match="8 mm apart") as fault:
        BodyPartRecognition.require(record, Options(**SMALL))
    assert "--least-gap" in fault.value.remedy
    BodyPartRecognition.require(record, Options(**SMALL, least_gap=4.0))
    asked = Options(**SMALL, least_gap=2.0, most_gap=3.0, least_body=0.9)
    with pytest.raises(module.ScanError, match="2 to 3 mm apart"):
        BodyPartRecognition.require(record, asked)


@pytest.mark.parametrize(
    ("write", "fact"),
    [
        (lambda folder: write_patients(folder, patients=4, shape=(40, 40)), "no volumes"),
        (
            lambda folder: [
                save(folder / f"{n}.nii.gz", staircase(), affine=np.eye(4)) for n in range(3)
            ],
            "have no (affine|spacing)",
        ),
    ],
)
def test_scans_without_slices_or_geometry_are_refused(tmp_path, write, fact):
    write(tmp_path / "scans")
    with pytest.raises(DataError, match=fact):
        run(tmp_path, steps=1, spacing=None)
    assert not list((tmp_path / "run").glob("encoder*"))


@pytest.mark.parametrize(
    ("options", "fact", "remedy"),
    [
        ({"most_gap": 4.0}, "less than --least-gap", "--least-gap 4 --most-gap 8"),
        ({"zoom": (1.1, 0.9)}, "--zoom 1.1 0.9 falls", "--zoom 0.9 1.1"),
        ({"gain": (2.0, 1.0)}, "--gain 2 1 falls", "--gain 1 2"),
        ({"patch_size": (32,)}, "1 edges", "--patch-size 32 32"),
        ({"encoder": "unet", "patch_size": (30, 32)}, "multiples of 8", "--patch-size 32 32"),
        ({"head": "both"}, "not one of joint, score", ""),
        ({"least_gap": -1.0}, "--least-gap is -1", "at least 0"),
    ],
)
def test_wrong_options_are_named(options, fact, remedy):
    with pytest.raises(OptionError, match=fact) as fault:
        method(**options)
    assert remedy in fault.value.remedy


def test_the_schedule_and_the_defaults():
    made = method(lr=0.5)
    optimiser, schedule = made.optimiser("main", [made])
    assert isinstance(optimiser, torch.optim.Adam)
    assert optimiser.defaults["lr"] == 0.5
    factors = [round(schedule(epoch, 50), 4) for epoch in (0, 29.9, 30, 40)]
    assert factors == [1.0, 1.0, 0.1, 0.01]
    assert Options().spacing == (3.0, 3.0, 3.0)
    assert BodyPartRecognition.intensity(Options()).ct == (-1000.0, 1000.0)
    assert "phases" not in vars(BodyPartRecognition), "one phase, all parameters"


def test_the_preview_shows_slices_upright_and_which_is_the_upper_one():
    made = method().eval()
    first, second = torch.zeros(2, 2, 1, 8, 16)
    first[:, :, 0, 15] = 1.0  # left, in front
    pair = Pair(first, second, torch.tensor([1, 0]), torch.ones(2))
    made.compare = lambda batch: torch.tensor([[0.0, 1.0], [0.0, 1.0]])
    shown = made.preview(pair)
    assert all(each.shape == (2, 1, 16, 8) for each in shown.values())
    assert shown["first"][0, 0, 0, 0] == 1
    assert torch.equal(shown["upper, found"], shown["first"])
    assert torch.equal(shown["upper, true"][0], shown["first"][0])
    assert torch.equal(shown["upper, true"][1], shown["second"][1])


def test_the_order_of_a_volume_s_slices_is_a_product(tmp_path, prepare):
    """A network that tells brightness knows the order of the staircase; upside down it knows none of it."""
    save(tmp_path / "scans" / "p.nii.gz", staircase())
    (record,) = prepare().values()
    made = method().eval()
    made.describe = lambda image: image.flatten(1).mean(1, keepdim=True)
    for sign, order in ((1, 1.0), (-1, 0.0)):
        made.above = lambda one, other, sign=sign: (sign * one > sign * other).float()[:, 0]
        product = made.product(record)
        assert product.values == {"slices": 12.0, "order": order}
        assert product.pictures["profile"].shape[0] == 3
    save(tmp_path / "scans" / "q.nii.gz", staircase()[..., :1])
    with pytest.raises(module.ScanError, match="two slices"):
        made.product(prepare()["q.nii.gz"])


def test_a_product_is_written_by_predict(tmp_path):
    write_patients(tmp_path / "scans", patients=4, shape=(20, 20, 20))
    run(tmp_path, steps=2, head="score")
    done = predict(
        tmp_path / "run", tmp_path / "scans", tmp_path / "out", cache=tmp_path / "c", quiet=True
    )
    with (tmp_path / "out" / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(done.rows) == 4
    assert all(0 <= float(row["order"]) <= 1 for row in rows)
    assert all((tmp_path / "out" / row["profile"]).exists() for row in rows)


def learn(place: Path, scans: Path) -> dict[str, float]:
    """Learn the order of slices with a narrow network; give its scores on held-out subjects."""
    done = run(
        place, scans, patch_size=(40, 56), batch_size=16, samples_per_scan=8, least_gap=4.0,
        steps=300, epochs=6, held_out_batches=12, lr=2e-3, hidden=64,
    )  # fmt: skip
    return done.result.score


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_small_scale_proof_on_real_scans(shared_data, tmp_path, proof):
    """On hippocampus MRI the network knows which slice is the upper one, the better the farther both lie apart."""
    scores = learn(tmp_path, hippocampi(shared_data, tmp_path / "scans") / "images")
    proof("body-part-recognition", data="hippocampus-mri", **scores)
    assert scores["accuracy"] > 0.8
    assert scores["far"] > scores["near"]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_small_scale_proof_fails_where_slices_lie_in_no_order(shared_data, tmp_path, proof):
    """With the slices of every scan shuffled there is nothing to learn: the bar is missed."""
    scans = hippocampi(shared_data, tmp_path / "scans") / "images"
    for number, path in enumerate(sorted(scans.iterdir())):
        scan = nibabel.load(path)
        order = np.random.default_rng(number).permutation(scan.shape[2])
        mixed = np.asarray(scan.dataobj)[..., order]
        nibabel.save(nibabel.Nifti1Image(mixed, scan.affine), path)
    scores = learn(tmp_path, scans)
    proof(
        "body-part-recognition",
        data="hippocampus-mri",
        **{"accuracy, shuffled": scores["accuracy"]},
    )
    assert scores["accuracy"] < 0.65
