"""Every must-have of spinal MRI, and that a small network tells unseen people and levels apart."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from unlabeled.data.fitness import judge
from unlabeled.data.headers import look
from unlabeled.data.index import index_scans
from unlabeled.demo.phantoms import write_manifest, write_patients
from unlabeled.demo.spines import LEVELS, write_spines
from unlabeled.errors import DataError, OptionError, ScanError
from unlabeled.losses.contrastive import margin_contrast
from unlabeled.methods.spinal_mri import Options, Pair, SpinalMRI, bodies_of
from unlabeled.nn.encoders import build_encoder
from unlabeled.nn.weights import load_encoder
from unlabeled.rng import generator
from unlabeled.training.loader import held_out_batch, items_of
from unlabeled.training.pretrain import open_store, pretrain
from unlabeled.transforms.overlay import upright

QUICK = {"quiet": True, "accelerator": "cpu", "workers": 0}
CHANGE = 2.0  # of a person between two visits, so that brightness and noise tell nobody apart
SMALL = {"encoder": "thin-cnn-16", "patch_size": (3, 16, 16), "batch_size": 4, "features": 8}


def method(dims: int = 3, **options) -> SpinalMRI:
    torch.manual_seed(0)
    options = {**SMALL, "levels": LEVELS, **options}
    if dims == 2:
        options["patch_size"] = options["patch_size"][-2:]
    encoder = build_encoder(options["encoder"], dims=dims, in_channels=1)
    return SpinalMRI(Options(**options), encoder)


def records_of(manifest: Path, cache: Path, **options):
    asked = Options(**{**SMALL, **options})
    store = open_store(SpinalMRI, asked, cache)
    done = store.prepare(index_scans(manifest).sources, rule=SpinalMRI.intensity(asked))
    assert not done.quarantine
    return done.records


@pytest.fixture
def spines(tmp_path):
    """Three people with two visits, one with a single one; seven bodies each."""
    manifest = write_spines(tmp_path / "scans", subjects=3, once=1)
    return records_of(manifest, tmp_path / "cache")


def batch_of(made: SpinalMRI, count: int = 6, level: int = 2) -> Pair:
    space = made.look.size
    same = torch.arange(count) % 2 == 0
    one, other = torch.rand(2, count, 1, *space, generator=torch.Generator().manual_seed(0))
    return Pair(one, other, same, torch.full((count,), level))


def test_must_haves_1_and_4_pairs_show_the_drawn_bodies(spines):
    made = method(surround=0.0).eval()
    pairs = made.pairs(spines)
    assert [pair.same for pair in pairs] == [True, False] * 4
    for number in range(40):
        pair = pairs[number % len(pairs)]
        first, second = pair.draw(generator(number))
        sample = made.views(pair, generator(number))
        assert bool(sample.same) == (first.record.subject == second.record.subject)
        assert LEVELS[int(sample.level)] == first.level == second.level
        assert torch.equal(sample.first, made.look(first))
        assert torch.equal(sample.second, made.look(second))
        assert not torch.equal(sample.first, sample.second)


def run(place: Path, scans: Path, **options):
    return pretrain(
        "spinal-mri", scans, place / "run", cache=place / "cache",
        epochs=options.pop("epochs", 1), **{**SMALL, **QUICK, **options},
    )  # fmt: skip


def test_must_have_3_people_and_families_are_learnt_from_or_scored_on(tmp_path, monkeypatch):
    manifest = write_spines(tmp_path / "scans", subjects=8, levels=2)
    with manifest.open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        row["family"] = f"f{int(row['subject'][1:]) // 2}"
    manifest = write_manifest(manifest, rows)
    drawn: dict[bool, set[int]] = {True: set(), False: set()}
    view = SpinalMRI.view

    def watched(self, body, rng):
        drawn[self.training].add(int(body.record.subject[1:]) // 2)
        return view(self, body, rng)

    monkeypatch.setattr(SpinalMRI, "view", watched)
    monkeypatch.setattr(SpinalMRI, "begin", lambda self, records: None)
    run(tmp_path, manifest, epochs=6, held_out_batches=4)
    assert drawn[True]
    assert drawn[False]
    assert not drawn[True] & drawn[False]


def test_must_have_5_the_worked_example():
    one = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    other = torch.tensor([[0.6, 0.8]] * 2)
    same = torch.tensor([1.0, 0.0])
    for margin, term in ((1.0, 0.135089), (2.0, 1.870178)):
        terms = margin_contrast(one, other, same, margin)
        assert terms.tolist() == pytest.approx([0.8, term], abs=1e-6)
    far = margin_contrast(torch.zeros(1, 2), torch.tensor([[1.0, 0.5]]), torch.zeros(1))
    assert far.item() == 0.0
    equal = torch.zeros(2, 3, requires_grad=True)
    margin_contrast(equal, torch.zeros(2, 3), same).sum().backward()
    assert equal.grad is not None
    assert equal.grad.isfinite().all()


def test_must_have_6_both_members_are_named():
    made = method()
    assert made.classifier.out_features == 7
    assert SpinalMRI(Options(**SMALL), made.encoder).classifier.out_features == 7
    assert (
        SpinalMRI(Options(**SMALL, levels=("L4", "L5")), made.encoder).classifier.out_features == 2
    )
    batch = batch_of(made)
    logits = torch.zeros(12, 7)
    logits[:, 2] = 2.0
    wrong = logits.roll(1, 1)
    for first, second, loss in (
        (logits, logits, 2 * 0.594438),
        (torch.zeros(12, 7), torch.zeros(12, 7), 2 * 1.945910),
        (logits, wrong, 0.594438 + 2.594438),
        (wrong, logits, 0.594438 + 2.594438),
    ):
        both = torch.cat([first[:6], second[:6]])
        made.both = lambda batch, both=both: (torch.zeros(6, 8), torch.zeros(6, 8), both)
        update = next(made.step(batch))
        assert float(update.shows["level"]) == pytest.approx(loss, abs=1e-5)


def test_must_have_7_both_branches_are_one_network():
    made = method().eval()
    batch = batch_of(made)
    first, second, _ = made.both(batch._replace(second=batch.first))
    assert torch.equal(first, second)
    names = {name.partition(".")[0] for name, _ in made.named_parameters()}
    assert names == {"encoder", "embedding", "classifier"}


def test_must_have_8_weights_of_0_take_a_loss_away():
    def gradients(**options):
        made = method(**options)
        next(made.step(batch_of(made))).loss.backward()
        return [
            max(float(each.grad.abs().max()) for each in part.parameters())
            for part in (made.embedding, made.classifier, made.encoder)
        ]

    assert all(gradients())
    embedding, classifier, encoder = gradients(level_weight=0)
    assert embedding > 0 == classifier
    assert encoder > 0
    embedding, classifier, encoder = gradients(contrastive_weight=0)
    assert classifier > 0 == embedding
    assert encoder > 0
    with pytest.raises(OptionError, match="nothing to learn"):
        Options(level_weight=0, contrastive_weight=0)
    made = method(level_weight=3.0, contrastive_weight=0.5)
    update = next(made.step(batch_of(made)))
    wanted = 0.5 * update.shows["contrastive"] + 3 * update.shows["level"]
    torch.testing.assert_close(update.loss, wanted)


def test_must_have_9_people_and_levels_are_scored_beside_the_untrained_network(tmp_path, spines):
    made = method().eval()
    far = torch.tensor([0.1, 0.5, 0.3, 0.9])[:, None]
    batch = Pair(
        torch.zeros(4),
        torch.zeros(4),
        torch.tensor([True, False, True, False]),
        torch.tensor([0, 1, 2, 3]),
    )
    logits = torch.eye(7)[[0, 1, 2, 3, 0, 1, 0, 0]]
    made.both = lambda given: (torch.zeros(4, 1), far, logits)
    told = {name: float(value) for name, value in made.score(batch).items()}
    assert told == pytest.approx({
        "auc": 1.0, "chance": 0.5, "untrained": 0.5, "level accuracy": 0.75, "level chance": 1 / 7,
        "distance of one person": 0.2, "distance of two people": 0.7, "length": 0.225,
    })  # fmt: skip
    reverse = made.score(batch._replace(same=~batch.same))
    assert float(reverse["auc"]) == 0.0
    manifest = write_spines(tmp_path / "more", subjects=6, levels=2, unseen=2)
    run(tmp_path, manifest, steps=2)
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    held_out = [line["held_out"] for line in lines if "held_out" in line][-1]
    assert {"auc", "untrained", "level accuracy", "level chance"} <= held_out.keys()
    assert 0.0 <= held_out["untrained"] <= 1.0
    assert held_out["untrained"] != 0.5, "as it is before anything was measured"


def test_the_untrained_network_is_measured_once_and_kept(spines):
    made, again = method(), method()
    made.begin(spines)
    again.begin(spines)
    assert made.training
    assert made.untrained == again.untrained
    assert "untrained" in made.state_dict()
    made.embed = lambda features: torch.zeros(len(features), 1)
    made.begin(spines)
    assert made.untrained == 0.5


def without(manifest: Path, *columns: str, only: int | None = None) -> Path:
    with manifest.open(newline="") as file:
        rows = list(csv.DictReader(file))
    for number, row in enumerate(rows):
        for column in columns if only is None or number == only else ():
            row[column] = ""
    return write_manifest(manifest, rows)


def test_must_have_10_scans_without_levels_or_boxes_are_named(tmp_path):
    manifest = write_spines(tmp_path / "scans", subjects=3, levels=2)
    without(manifest, "boxes", only=1)
    done = run(tmp_path, manifest, steps=1)
    assert done.quarantined == 1
    left_out = (tmp_path / "run" / "quarantine.csv").read_text()
    assert "p000-1.nii.gz" in left_out
    assert "has no boxes" in left_out
    without(manifest, "level", "boxes")
    with pytest.raises(DataError, match=r"p000-0.nii.gz: has no level and no boxes") as refused:
        run(tmp_path / "none", manifest, steps=1)
    assert "--pairing position" in refused.value.remedy
    assert not list((tmp_path / "none").glob("run/encoder*"))


def test_lists_and_checks_go_by_levels_and_boxes(tmp_path):
    assert {"level", "boxes"} <= set(SpinalMRI.needs.metadata)
    bare = without(write_spines(tmp_path / "scans", subjects=3, levels=2), "boxes")
    whole = write_spines(tmp_path / "more", subjects=3, levels=2)
    for manifest, fits in ((bare, False), (whole, True)):
        sources = index_scans(manifest).sources
        judged = judge("spinal-mri", SpinalMRI.needs, [look(source) for source in sources])
        assert judged.fits == fits


@pytest.mark.parametrize("normalise", [False, True])
def test_must_have_11_the_convolutions_alone_are_carried(tmp_path, normalise):
    manifest = write_spines(tmp_path / "scans", subjects=4, levels=2)
    run(tmp_path, manifest, steps=2, normalise=normalise)
    carried = load_file(tmp_path / "run" / "encoder.safetensors")
    assert carried
    assert all(name.startswith("encoder.") for name in carried)
    kept = load_file(tmp_path / "run" / "checkpoints" / "last.safetensors")
    found = 0
    for name, tensor in carried.items():
        twins = [each for key, each in kept.items() if key.endswith(name)]
        found += any(torch.equal(tensor, each) for each in twins)
    assert found == len(carried)
    encoder, _ = load_encoder(tmp_path / "run" / "encoder.safetensors")
    disc = torch.rand(2, 1, 5, 12, 40)
    assert encoder.eval()(disc)[-1].shape[:3] == (2, encoder.channels[-1], 5)


def test_must_have_12_slices_stay_as_many_as_they_are():
    made = method(patch_size=(9, 32, 32)).eval()
    image = torch.rand(1, 1, 9, 32, 32)
    assert all(each.shape[2] == 9 for each in made.encoder(image))
    assert Options().encoder == "thin-cnn"


def test_bodies_are_changed_in_training_alone_each_by_itself(spines):
    still = method(rotation=0, zoom=(1, 1), shift=0, slice_shift=0, gain=(1, 1), p_mirror=0)
    pair = still.pairs(spines)[0]
    plain = method().eval().views(pair, generator(3))
    again = method().eval().views(pair, generator(3))
    assert torch.equal(plain.first, again.first)
    body, _ = pair.draw(generator(3))
    moved = [method().view(body, generator(seed)) for seed in range(4)]
    assert all(not torch.equal(one, moved[0]) for one in moved[1:])
    unmoved = [still.view(body, generator(seed)) for seed in range(4)]
    assert all(torch.allclose(one, plain.first, atol=1e-5) for one in unmoved)
    flipped = method(rotation=0, zoom=(1, 1), shift=0, slice_shift=0, gain=(1, 1), p_mirror=1).view(
        body, generator(0)
    )
    torch.testing.assert_close(flipped, plain.first.flip(1), atol=1e-5, rtol=0)


def test_embeddings_of_length_1_when_asked():
    made = method(normalise=True)
    first, second, _ = made.both(batch_of(made))
    torch.testing.assert_close(first.norm(dim=1), torch.ones(6))
    assert (first - second).norm(dim=1).max() <= 2


def test_levels_come_from_the_scans_in_the_spine_s_order(spines):
    suited = SpinalMRI.suit(Options(**SMALL), spines)
    assert suited.levels == LEVELS
    assert SpinalMRI.suit(suited, spines) == suited
    some = Options(**SMALL, levels=("L5", "L4"))
    assert SpinalMRI.suit(some, spines).levels == ("L5", "L4")
    assert {body.level for body in bodies_of(spines[0], some)} == {"L4", "L5"}
    with pytest.raises(DataError, match="no scan has the level L7") as refused:
        SpinalMRI.suit(Options(**SMALL, levels=("L4", "L7")), spines)
    assert f"--levels {' '.join(LEVELS)}" in refused.value.remedy
    with pytest.raises(ScanError, match="none of the levels L7, but T12, L1"):
        SpinalMRI.require(spines[0], Options(**SMALL, levels=("L7",)))


def test_a_plane_is_the_default_in_2d(spines):
    assert SpinalMRI.suit(Options(patch_size=(9, 224), dims=2), spines).patch_size == (224, 224)
    assert SpinalMRI.suit(Options(patch_size=(64, 48), dims=2), spines).patch_size == (64, 48)


def test_people_seen_once_are_no_pairs(tmp_path):
    manifest = write_spines(tmp_path / "scans", subjects=0, once=4, levels=2)
    with pytest.raises(DataError, match="nobody was scanned at two visits") as refused:
        run(tmp_path, manifest, steps=1)
    assert "`study`" in refused.value.remedy


def test_position_stands_in_for_levels_and_says_so(tmp_path):
    write_patients(tmp_path / "scans", patients=8, shape=(20, 20, 20))
    rows = [
        {"image": f"scans/phantom-{n:03d}.nii.gz", "subject": f"p{n // 2}", "study": str(n % 2)}
        for n in range(8)
    ]
    manifest = write_manifest(tmp_path / "scans.csv", rows)
    run(tmp_path, manifest, pairing="position", places=3, steps=2)
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    assert any("stand in for vertebral levels" in note for note in facts["loaded"])
    encoder = load_file(tmp_path / "run" / "encoder.safetensors")
    assert encoder
    assert method().notes() == ()


@pytest.mark.parametrize(
    ("options", "fact", "remedy"),
    [
        ({"zoom": (1.1, 0.9)}, "--zoom 1.1 0.9 falls", "--zoom 0.9 1.1"),
        ({"gain": (2.0, 1.0)}, "--gain 2 1 falls", "--gain 1 2"),
        ({"batch_size": 1}, "--batch-size is 1", "at least 2"),
        ({"pairing": "disc"}, "not one of level, position", ""),
        ({"margin": 0.0}, "--margin is 0", ""),
        ({"encoder": "unet", "patch_size": (3, 30, 32)}, "multiples of 8", ""),
    ],
)
def test_wrong_options_are_named(options, fact, remedy):
    with pytest.raises(OptionError, match=fact) as fault:
        method(**options)
    assert remedy in fault.value.remedy


def test_the_optimisers_and_the_schedule():
    made = method(lr=0.5)
    optimiser, schedule = made.optimiser("main", [made])
    assert isinstance(optimiser, torch.optim.SGD)
    assert (optimiser.defaults["momentum"], optimiser.defaults["weight_decay"]) == (0.9, 5e-4)
    assert [round(schedule(epoch, 50), 4) for epoch in (0, 29.9, 30, 40)] == [1, 1, 0.1, 0.01]
    made = method(optimiser="adam")
    assert isinstance(made.optimiser("main", [made])[0], torch.optim.Adam)


def test_the_preview_shows_bodies_upright_and_the_nearest_other_scan():
    made = method().eval()
    batch = batch_of(made, 4)
    first = torch.zeros(4, 1, 3, 16, 16)
    first[:, :, 1, 0, 15] = 1.0  # of the middle slice, behind and above
    made.both = lambda given: (torch.eye(4), torch.eye(4)[[1, 0, 3, 2]], torch.zeros(8, 7))
    shown = made.preview(batch._replace(first=first))
    assert upright(shown["body"][0, 0, ..., 1]).argmax() == 0  # as previews show volumes
    assert shown["body"].sum() == 4
    assert all(each.shape == (4, 1, 16, 16, 3) for each in shown.values())
    other = shown["same level, another scan"]
    assert torch.equal(shown["nearest of the other scans"], other[[1, 0, 3, 2]])
    assert shown["one person: white"].flatten(1).mean(1).tolist() == [1, 0, 1, 0]


@pytest.mark.parametrize("dims", [2, 3])
def test_half_of_a_held_out_batch_is_of_one_person(tmp_path, dims):
    manifest = write_spines(tmp_path / "scans", subjects=3, once=2, levels=2, dims=dims)
    made = method(dims, levels=LEVELS[:2]).eval()
    (phase,) = made.phases()
    items = items_of(phase, records_of(manifest, tmp_path / "cache", patch_size=made.look.size))
    batch = held_out_batch(phase, items, seed=0, number=0)
    assert batch.same.tolist() == [True, False, True, False]
    assert batch.first.shape == (4, 1, *made.look.size)
    assert all(value.isfinite() for value in made.score(batch).values())


def learn(place: Path, manifest: Path, **options) -> dict[str, float]:
    """Train 300 steps of a narrow network and score people that it never saw."""
    settings = {
        "encoder": "thin-cnn-16", "patch_size": (3, 24, 24), "batch_size": 32, "features": 32, "epochs": 100,
        "steps": 300, "surround": 0.3, "optimiser": "adam", "lr": 1e-3, "seed": 0, **options,
    }  # fmt: skip
    pretrain(
        "spinal-mri", manifest, place / "run", cache=place / "cache", samples_per_scan=4,
        held_out_batches=12, score_every=300, quiet=True, accelerator="cpu", workers=0, **settings,
    )  # fmt: skip
    lines = [json.loads(line) for line in (place / "run" / "log.jsonl").read_text().splitlines()]
    held_out: dict[str, float] = [line["held_out"] for line in lines if "held_out" in line][-1]
    return held_out


def tells_people(scores: dict[str, float]) -> bool:
    """Whether unseen people are told apart, and much better than by an untrained network."""
    return scores["auc"] > max(0.85, scores["untrained"] + 0.1)


@pytest.mark.slow
def test_small_scale_proof_on_unseen_people(tmp_path, proof):
    manifest = write_spines(tmp_path / "scans", subjects=80, unseen=20, change=CHANGE)
    scores = learn(tmp_path, manifest)
    names = ("auc", "untrained", "level accuracy", "level chance")
    apart = scores["distance of two people"] / scores["distance of one person"]
    proof("spinal-mri", data="phantom", **{name: scores[name] for name in names}, apart=apart)
    assert tells_people(scores)
    assert scores["level accuracy"] > 2 / 7
    assert apart > 1.5


@pytest.mark.slow
def test_small_scale_proof_fails_where_visits_are_of_strangers(tmp_path, proof):
    manifest = write_spines(
        tmp_path / "scans", subjects=80, unseen=20, change=CHANGE, strangers=True
    )
    scores = learn(tmp_path, manifest)
    proof("spinal-mri", data="phantom", **{"auc, strangers": scores["auc"]})
    assert not tells_people(scores)
    assert scores["auc"] < 0.65
    assert math.isfinite(scores["length"])


@pytest.mark.slow
def test_small_scale_on_real_heads_by_position(tmp_path, shared_data, proof):
    """Three people of the set were scanned twice, on other scanners' grids: one of them is unseen.  No bar, as it is."""
    folder = shared_data / "brain-ms-longitudinal"
    with (folder / "scans.csv").open(newline="") as file:
        listed = list(csv.DictReader(file))
    rows = [
        {
            "image": str(folder / row["file"]), "subject": row["patient"], "study": row["timepoint"],
            "modality": row["contrast"], "split": "val" if row["patient"] in ("patient03", "patient04") else "train",
        }
        for row in listed
    ]  # fmt: skip
    manifest = write_manifest(tmp_path / "heads.csv", rows)
    scores = learn(tmp_path, manifest, pairing="position", spacing=(3.0, 1.6, 1.6), steps=200)
    names = ("auc", "untrained", "level accuracy", "level chance")
    proof("spinal-mri", data="brain-ms-longitudinal", **{name: scores[name] for name in names})
    assert scores["level accuracy"] > 2 / 7


def test_the_real_spine_s_own_axes_are_followed(tmp_path, shared_data):
    """A scan that is stored from back to front first: boxes of its file hold the levels that its mask shows."""
    import nibabel

    folder = shared_data / "spine-mri"
    mask = np.asarray(nibabel.load(folder / "sub-errsm30_t2w_vertebrallevels.nii.gz").dataobj)
    boxes, levels = [], []
    for level in sorted(set(np.unique(mask)) - {0}):
        where = np.argwhere(mask == level)
        boxes.append(" ".join(map(str, (*where.min(0), *(where.max(0) + 1)))))
        levels.append(f"C{int(level)}")
    row = {
        "image": str(folder / "sub-errsm30_t2w.nii.gz"), "subject": "p", "level": ";".join(levels),
        "mask": str(folder / "sub-errsm30_t2w_vertebrallevels.nii.gz"), "boxes": ";".join(boxes),
    }  # fmt: skip
    (record,) = records_of(write_manifest(tmp_path / "spine.csv", [row]), tmp_path / "cache")
    found = bodies_of(record, Options())
    assert [body.level for body in found] == levels
    heights = [body.bounds[2][0] for body in found]
    assert heights == sorted(heights, reverse=True), "C2 lies above C5"
    for body in found:
        start = [round(begin) for begin, _ in body.bounds]
        size = [round(end - begin) for begin, end in body.bounds]
        inside = record.mask_patch(start, size)
        whole = record.mask_patch((0, 0, 0), record.space)
        number = int(body.level[1:])
        assert (inside == number).sum() == (whole == number).sum() > 0
