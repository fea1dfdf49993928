"""Every must-have of volume context, and that small networks learn where things lie in volumes they never saw."""

from __future__ import annotations

import json
import math
import zipfile
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import nibabel
import numpy as np
import pytest
import torch

from unlabeled.data.intensity import IntensityRule
from unlabeled.demo.phantoms import write_patients
from unlabeled.errors import DataError, OptionError
from unlabeled.methods.volume_context import (
    AXIAL,
    NAMES,
    Options,
    Pair,
    Turn,
    VolumeContext,
)
from unlabeled.nn.displacement import OffsetHead
from unlabeled.nn.encoders import build_encoder
from unlabeled.nn.weights import read_weights
from unlabeled.rng import generator
from unlabeled.training.loader import held_out_batch, items_of
from unlabeled.training.pretrain import pretrain
from unlabeled.transfer.finetune import finetune
from unlabeled.transforms.heatmaps import draw_blobs, find_blobs

QUICK = {"quiet": True, "accelerator": "cpu", "workers": 0}
STEPS = 1500  # of the small-scale proof, for the three networks together
AXES = pytest.mark.parametrize("axis", [0, 1, 2])
BOTH = pytest.mark.parametrize("fidelity", ["clean", "official"])


class Held:
    """A volume in memory under its intensity rule."""

    channels, dims = 1, 3

    def __init__(self, array: np.ndarray, name: str = "case") -> None:
        self.array, self.space = array.astype(np.float32), array.shape
        self.foreground = tuple((0, edge) for edge in self.space)
        self.source, self.key = SimpleNamespace(name=name), name

    def patch(self, start, size) -> torch.Tensor:
        cut = self.array[tuple(slice(a, a + n) for a, n in zip(start, size, strict=True))]
        return torch.from_numpy(np.ascontiguousarray(cut))[None]


def method(**options) -> VolumeContext:
    torch.manual_seed(0)
    made = Options(**{"batch_size": 4, **options})
    return VolumeContext(made, build_encoder(made.encoder, dims=2, in_channels=3))


@cache
def ramp(axis: int, edge: int = 41) -> Held:
    """A volume that holds the coordinate along one axis, from -1 to 1."""
    return Held(np.indices((edge,) * 3)[axis] / (edge - 1) * 2 - 1)


def batch_of(made: VolumeContext, record: Held, axis: int = AXIAL, count: int = 4) -> Pair:
    pairs = [made.views(Turn(record, axis), generator(n, "views")) for n in range(count)]
    return torch.utils.data.default_collate(pairs)


def noise(edge: int = 30) -> Held:
    return Held(np.random.default_rng(0).normal(size=(edge,) * 3))


@AXES
@pytest.mark.parametrize("field", [None, (50, 20, 36)])
def test_a_batch_made_together_is_bit_by_bit_that_of_single_views(axis, field):
    """With patches that lie partly or wholly beyond their volumes, and frames larger and smaller than them."""
    made = method(field=field, centre=0.9, last_move=(0.0, 1.0))
    volumes = [Held(np.random.default_rng(n).normal(size=(30 + n, 26, 21))) for n in range(6)]
    turns = [Turn(volume, axis, over=n / 6) for n, volume in enumerate(volumes)]
    for seed in range(5):
        drawn = [[generator(seed, n) for n in range(len(turns))] for _ in "ab"]
        singly = [made.views(*one) for one in zip(turns, drawn[0], strict=True)]
        wanted = torch.utils.data.default_collate(singly)
        found = made.together(turns, drawn[1])
        assert all(map(torch.equal, found, wanted))
        assert all(one.dtype == other.dtype for one, other in zip(found, wanted, strict=True))
        states = [[rng.get_state().tolist() for rng in rngs] for rngs in drawn]
        assert states[0] == states[1]
    assert found.outside.max() > 0.2


@AXES
def test_must_have_1_both_patches_are_of_one_volume_and_channels_are_planes(axis):
    """Across the planes, the coordinate differs from channel to channel and nowhere else; the gap is 0.05."""
    pair = method(centre=0.2, last_move=(0.0, 0.2)).views(Turn(ramp(axis), axis), generator(0))
    assert pair.first.shape == pair.second.shape == (3, 42, 42)
    for patch in (pair.first, pair.second):
        assert torch.allclose(patch, patch.mean((1, 2), keepdim=True).expand_as(patch), atol=1e-5)
        steps = patch.mean((1, 2)).diff()
        assert torch.allclose(steps, torch.full((2,), 0.05), atol=1e-5)
    constant = Held(np.full((20,) * 3, 7.0))
    pair = method(centre=0.1, last_move=(0.0, 0.1)).views(Turn(constant, axis), generator(0))
    assert torch.allclose(pair.first, pair.second)


@AXES
def test_must_have_2_the_second_patch_moves_across_the_axis_of_its_planes(axis):
    made = method(centre=0.1, last_move=(0.0, 0.2))
    for along in range(3):
        pair = made.views(Turn(ramp(along), axis), generator(3))
        shift = float((pair.second - pair.first).mean())
        assert shift == pytest.approx(float(pair.move[along]), abs=1e-4)
    across = [float(made.views(Turn(ramp(axis), axis), generator(n)).move[axis]) for n in range(50)]
    assert all(0.125 <= abs(each) <= 0.25 for each in across)
    assert min(across) < 0 < max(across)
    others = [n for n in range(3) if n != axis]
    columns, rows = made.within[axis]
    assert sorted((columns, rows)) == others
    assert columns > rows, "columns of map and patch are the same axis"


@pytest.mark.parametrize(
    ("over", "low", "high"), [(0.0, 0.25, 0.3), (0.5, 0.125, 0.5), (1.0, 0.0, 0.7)]
)
@AXES
def test_must_have_3_moves_grow_from_first_to_last(over, low, high, axis):
    made, record = method(), noise(8)
    moves = torch.stack(
        [made.views(Turn(record, axis, over), generator(n)).move for n in range(200)]
    )
    within = moves[:, [n for n in range(3) if n != axis]].abs()
    assert within.min() >= low - 1e-6
    assert within.max() <= high + 1e-6
    assert within.max() - within.min() > 0.8 * (high - low)
    across = moves[:, axis].abs()
    assert across.min() >= 0.125
    assert across.max() <= 0.25
    assert 0.3 < float((moves > 0).float().mean()) < 0.7


def test_must_have_3_training_hears_how_far_it_is_and_held_out_pairs_are_the_hardest():
    made = method()
    for axis, phase in enumerate(made.phases()):
        (feed,) = phase.feeds.values()
        (turn,) = feed.group([noise(8)])
        assert (turn.axis, turn.over) == (axis, 1.0)
        assert feed.pace(turn, 0.25).over == 0.25
        early = [feed.views(feed.pace(turn, 0.0), generator(n)).move for n in range(20)]
        assert torch.stack(early).abs().max() <= 0.3 + 1e-6
        held = held_out_batch(phase, {"volumes": [turn]}, seed=0, number=0)
        again = held_out_batch(phase, {"volumes": [turn]}, seed=0, number=0)
        assert torch.equal(held.move, again.move)


def test_must_have_4_the_centre_of_the_first_patch_is_drawn_evenly():
    made = method()
    middles = torch.tensor(
        [
            [float(made.views(Turn(ramp(axis), AXIAL), generator(n)).first.mean())
             for axis in range(3)] for n in range(150)
        ]
    )  # fmt: skip
    assert middles.abs().max() <= 0.3 + 1e-4
    assert (middles.amin(0) < -0.25).all()
    assert (middles.amax(0) > 0.25).all()


def test_must_have_4_the_loss_compares_maps_whose_peak_is_ten():
    made = method()
    batch = batch_of(made, noise())
    drawn = draw_blobs(batch.move[:, [1, 0]])
    made.predict = lambda batch, axis: torch.zeros(4, 1, 19, 19)
    (update,) = made.step(batch)
    assert float(update.loss) == pytest.approx(float(drawn.square().mean()), rel=1e-5)
    assert drawn.amax((1, 2, 3)).min() > 9


def test_must_have_7_the_encoder_is_siamese_and_exchanged_patches_mirror_the_target():
    made = method().eval()
    batch = batch_of(made, noise())
    turned = batch._replace(first=batch.second, second=batch.first, move=-batch.move)
    seen = []
    original = made.encoder.describe
    made.encoder.describe = lambda image: seen.append(image) or original(image)
    with torch.no_grad():
        made.predict(batch, AXIAL)
    assert torch.equal(torch.cat(seen), torch.cat([batch.first, batch.second]))
    target, mirrored = (draw_blobs(made.aim(each, AXIAL)) for each in (batch, turned))
    assert torch.allclose(mirrored, target.flip(2, 3), atol=1e-5)


def test_must_have_8_three_networks_and_their_weights_are_carried_bit_for_bit(tmp_path, scans):
    made = method()
    networks = made.encoders
    assert len({id(each) for each in networks}) == 3
    starts = [each.convolutions[0].weight for each in networks]
    assert not torch.equal(starts[0], starts[1])
    assert not torch.equal(starts[1], starts[2])
    assert sum(each.channels[-1] for each in networks) == 192
    phases = made.phases()
    assert [phase.name for phase in phases] == list(NAMES)
    for phase, network in zip(phases, networks, strict=True):
        assert phase.trains["main"][0] is network
    run(tmp_path, scans, steps=6)
    carried, metadata = read_weights(tmp_path / "run" / "encoder.safetensors")
    kept, _ = read_weights(tmp_path / "run" / "checkpoints" / "last.safetensors")
    names = {name.partition(".")[0] for name in carried}
    assert names == {"encoder", "sagittal", "coronal"}
    for name, tensor in carried.items():
        assert torch.equal(tensor, kept[f"method.{name}"])
    assert metadata["channels"] == 3


@BOTH
def test_must_have_9_all_volumes_are_visited(fidelity):
    records = [Held(np.zeros((4,) * 3), str(n)) for n in range(11)]
    for axis, phase in enumerate(method(fidelity=fidelity).phases()):
        turns = items_of(phase, records)["volumes"]
        assert {turn.axis for turn in turns} == {axis}
        visited = [turn.record.key for turn in turns]
        assert visited == [str(n) for n in range(11 if fidelity == "clean" else 4)]


def test_must_have_10_beyond_the_volume_lies_zero_and_its_share_is_logged():
    made = method(centre=0.0, last_move=(0.7, 0.7))
    record = Held(np.ones((40,) * 3))
    pair = made.views(Turn(record, AXIAL), generator(0))
    assert pair.first.min() > 0.999
    assert pair.second.min() == 0
    share = float((pair.second < 0.999).float().mean())
    assert share > 0.2
    assert float(pair.outside) == pytest.approx(share / 2, abs=0.01)
    (update,) = made.step(batch_of(made, record))
    assert float(update.shows["outside"]) > 0.1


def test_must_have_11_the_rule_standardises_without_clipping():
    assert VolumeContext.intensity(Options()) == IntensityRule(kind="standard")


def test_quirks_axes():
    """Displacement and heatmap of the published code for its axes 0 and 2; the middle one is right."""
    made = method(fidelity="official")
    record = noise(8)
    for axis, (across, columns, rows) in enumerate([(2, 1, 0), (1, 2, 0), (0, 2, 1)]):
        moves = torch.stack([made.views(Turn(record, axis), generator(n)).move for n in range(100)])
        assert moves[:, across].abs().min() >= 0.125
        assert moves[:, across].abs().max() <= 0.25
        assert moves[:, columns].abs().min() < 0.1
        assert moves[:, rows].abs().max() > 0.5
        pair = Pair(torch.zeros(1), torch.zeros(1), moves, torch.zeros(100))
        assert torch.equal(made.aim(pair, axis), moves[:, [columns, rows]])
    assert set(made.quirks) == {"first volumes", "axes", "numbers"}


def test_quirks_numbers():
    moves = torch.tensor([[0.1, 0.2, 0.3]])
    pair = Pair(torch.zeros(1), torch.zeros(1), moves, torch.zeros(1))
    clean, official = (method(target="offset", fidelity=f) for f in ("clean", "official"))
    found = [clean.aim(pair, axis)[0].tolist() for axis in range(3)]
    assert torch.allclose(torch.tensor(found), torch.tensor([[0.3, 0.2], [0.3, 0.1], [0.2, 0.1]]))
    for axis in range(3):
        assert torch.equal(official.aim(pair, axis), moves[:, [1, 0]])


def test_the_rival_says_two_numbers_and_its_loss_is_the_absolute_error():
    made = method(target="offset")
    assert isinstance(made.heads[0], OffsetHead)
    batch = batch_of(made, noise())
    assert made.predict(batch, AXIAL).shape == (4, 2)
    made.predict = lambda batch, axis: torch.zeros(4, 2)
    (update,) = made.step(batch)
    assert float(update.loss) == pytest.approx(float(batch.move[:, :2].abs().mean()), rel=1e-5)
    scores = made.score(batch)
    assert float(scores["error"]) == pytest.approx(float(scores["error_centre"]))
    assert "mse" not in scores


def test_other_encoders_are_pooled():
    made = method(encoder="resenc-tiny", patch_size=(32, 24))
    batch = batch_of(made, noise())
    assert batch.first.shape == (4, 3, 32, 24)
    assert made.predict(batch, 0).shape == (4, 1, 19, 19)


def test_coordinates_may_span_a_box_about_the_body():
    record = Held(np.zeros((30, 40, 50)))
    record.array[10:20, 5:15, 20:40] = 1.0
    record.foreground = ((10, 20), (5, 15), (20, 40))
    made = method(field=(10, 10, 20), centre=0.0, last_move=(0.0, 0.1), across=(0.0, 0.1))
    pair = made.views(Turn(record, AXIAL), generator(0))
    assert pair.first.min() > 0.999
    assert pair.second.min() > 0.999
    assert not method().views(Turn(record, AXIAL), generator(0)).first.all()


def test_optimiser():
    made = method()
    adam, schedule = made.optimiser("main", [made.heads[0]])
    assert type(adam) is torch.optim.Adam
    assert adam.defaults["lr"] == 5e-5
    assert adam.defaults["weight_decay"] == 0
    assert schedule(1e6, 1e6) == 1


def test_scores_by_hand():
    made = method()
    batch = batch_of(made, noise())
    drawn = draw_blobs(made.aim(batch, AXIAL))
    made.predict = lambda batch, axis: drawn
    scores = {name: float(value) for name, value in made.score(batch).items()}
    assert scores["mse"] == 0
    assert scores["mse_zero"] == pytest.approx(float(drawn.square().mean()))
    assert scores["mse_constant"] > 1
    clear = (made.aim(batch, AXIAL).abs() > 1 / 18).all(1)  # else the largest cell is in the middle
    assert scores["quadrant"] == pytest.approx(float(clear.float().mean()))
    assert clear.any()
    assert scores["error"] <= math.sqrt(2) / 18
    made.predict = lambda batch, axis: drawn.flip(2, 3)
    assert float(made.score(batch)["quadrant"]) == 0
    assert torch.allclose(find_blobs(drawn.flip(2, 3)), -find_blobs(drawn), atol=1e-6)


@pytest.mark.parametrize("target", ["heatmap", "offset"])
def test_preview_shows_both_patches_and_where_the_second_lies(target):
    made = method(target=target)
    with torch.no_grad():
        shown = made.preview(batch_of(made, noise()))
    assert list(shown) == ["first patch", "second patch", "second from first", "as predicted"]
    assert all(each.min() >= 0 and each.max() <= 1 for each in shown.values())
    assert shown["second from first"].amax((1, 2, 3)).min() > 0.9


@pytest.mark.parametrize(
    ("options", "fact", "remedy"),
    [
        ({"patch_size": (40, 42)}, "one of 40 x 42 is smaller", "--patch-size 42 42"),
        ({"patch_size": (42,)}, "1 edges", "--patch-size 42 42"),
        ({"encoder": "unet", "patch_size": (42, 42)}, "multiples of 8", "--patch-size"),
        ({"across": (0.3, 0.1)}, "--across is from 0.3 to 0.1", "--across 0.1 0.3"),
        ({"first_move": (0.5, 0.25)}, "--first-move", "--first-move 0.25 0.5"),
        ({"reach": 1.5}, "--reach", ""),
    ],
)
def test_wrong_options_are_named(options, fact, remedy):
    with pytest.raises(OptionError, match=fact) as fault:
        method(**options)
    assert remedy in fault.value.remedy


def test_pictures_and_registered_modalities_are_refused(tmp_path):
    write_patients(tmp_path / "flat", patients=3, shape=(40, 40))
    with pytest.raises(DataError, match="volume"):
        run(tmp_path, tmp_path / "flat", steps=3)
    manifest = tmp_path / "pairs.csv"
    for number in range(3):
        for part in "ab":
            array = np.random.default_rng(number).normal(size=(16, 16, 16)).astype(np.float32)
            write(tmp_path / "two" / f"{part}{number}.nii.gz", array)
    rows = [f"two/a{n}.nii.gz;two/b{n}.nii.gz,s{n}" for n in range(3)]
    manifest.write_text("image,subject\n" + "\n".join(rows) + "\n")
    with pytest.raises(DataError, match="2 channels, and the networks see three planes") as fault:
        run(tmp_path, manifest, steps=3)
    assert "one path" in fault.value.remedy
    assert not list((tmp_path / "run").glob("encoder*"))


@pytest.fixture
def scans(tmp_path) -> Path:
    write_patients(tmp_path / "scans", patients=5, shape=(16, 18, 14))
    return tmp_path / "scans"


def write(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array, np.diag([1.5, 1.5, 1.5, 1.0])), path)


def run(place: Path, scans: Path, **options):
    options = {"batch_size": 4, "samples_per_scan": 4, "epochs": 10_000, **options}
    return pretrain(
        "volume-context", scans, place / "run", cache=place / "cache", **QUICK, **options
    )


@pytest.mark.parametrize("target", ["heatmap", "offset"])
def test_all_three_networks_learn(tmp_path, scans, target):
    done = run(tmp_path, scans, steps=6, target=target)
    assert done.result.steps == 6
    assert math.isfinite(done.result.score["error"])
    previews = {path.name.split("-")[1] for path in (tmp_path / "run" / "previews").glob("*.png")}
    assert previews == set(NAMES)


def last_scores(run: Path) -> dict[str, float]:
    """Average the last scores of the three networks."""
    rows = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    last = {row["phase"]: row["held_out"] for row in rows if "held_out" in row}
    assert set(last) == set(NAMES)
    return {
        name: sum(scores[name] for scores in last.values()) / len(last)
        for name in last[NAMES[AXIAL]]
    }


def learn(place: Path, scans: Path, **options) -> dict[str, float]:
    common = {"batch_size": 8, "samples_per_scan": 8, "lr": 1e-3, "held_out_batches": 8}
    run(place, scans, score_every=10_000, **{**common, **options})
    return last_scores(place / "run")


def hippocampi(shared_data: Path, place: Path, part: str, count: int) -> Path:
    """Unpack the first subjects of a part, images and labels."""
    with zipfile.ZipFile(shared_data / "hippocampus-mri" / f"{part}.zip") as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(".nii.gz"))
        for kind in ("images", "labels"):
            for name in [name for name in names if f"{kind}/" in name][:count]:
                archive.extract(name, place / part)
    return next(path for path in (place / part).rglob("images")).parent


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_small_scale_proof_on_phantoms(tmp_path, proof):
    """In volumes never seen the second patch is found; how labels go over from one volume is told, and no bar."""
    write_patients(tmp_path / "scans", patients=24, shape=(40, 40, 40))
    scores = learn(tmp_path, tmp_path / "scans", steps=1200, batch_size=16)
    write_patients(tmp_path / "few", patients=6, shape=(40, 40, 40), labelled=True, seed=9)
    dice = {}
    for name, start in (
        ("trained", {"init": tmp_path / "run"}),
        ("untrained", {"init": "scratch", "like": tmp_path / "run"}),
    ):
        made = finetune(
            "label-transfer", tmp_path / "few", tmp_path / name, label_fraction=1 / 4, test=True,
            cache=tmp_path / "cache", accelerator="cpu", quiet=True, **start,
        )  # fmt: skip
        dice[f"dice_{name}"] = made.metrics["test"].measures["dice"].value
    proof("volume-context", data="phantom", **scores, **dice)
    assert scores["mse"] < 0.8 * scores["mse_constant"]
    assert scores["error"] < 0.7 * scores["error_centre"]
    assert scores["quadrant"] > 0.5


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_small_scale_proof_on_real_scans(shared_data, tmp_path, proof):
    """In hippocampus MRI of subjects never seen, the maps are better than the best constant one: not more in so few steps."""
    scans = hippocampi(shared_data, tmp_path, "train", 114) / "images"
    scores = learn(tmp_path, scans, steps=STEPS)
    proof("volume-context", data="hippocampus-mri", **scores)
    assert scores["mse"] < 0.97 * scores["mse_constant"]
    assert scores["quadrant"] > scores["quadrant_chance"]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_where_displacements_are_false_nothing_is_learnt(shared_data, tmp_path, proof, monkeypatch):
    """Where the second patch has not moved as it is said to, training stays at the mean map."""
    original = VolumeContext.views

    def lying(self, record, rng):
        pair = original(self, record, rng)
        return pair._replace(move=original(self, record, rng).move)

    monkeypatch.setattr(VolumeContext, "views", lying)
    scans = hippocampi(shared_data, tmp_path, "train", 114) / "images"
    scores = learn(tmp_path, scans, steps=STEPS // 3)
    proof("volume-context", data="hippocampus-mri", mse_of_false_moves=scores["mse"])
    assert scores["mse"] > 0.99 * scores["mse_constant"]
