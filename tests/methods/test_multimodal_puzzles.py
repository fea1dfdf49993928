"""Every must-have of multimodal puzzles, and that a small network puts slices of real brains together."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from scipy import stats
from torch.utils.data import default_collate

from unlabeled.data.index import index_scans
from unlabeled.demo.frames import write_frames
from unlabeled.demo.modalities import draw_contrasts, write_modalities
from unlabeled.demo.phantoms import write_manifest, write_patients
from unlabeled.errors import DataError, OptionError
from unlabeled.losses.assembly import assembly_error
from unlabeled.methods import multimodal_puzzles as module
from unlabeled.methods.multimodal_puzzles import MultimodalPuzzles, Options, in_order
from unlabeled.nn.encoders import build_encoder
from unlabeled.nn.heads import pool
from unlabeled.nn.sinkhorn import match, sinkhorn
from unlabeled.nn.weights import load_encoder, load_weights, read_weights
from unlabeled.rng import generator
from unlabeled.training.checkpoint import read_checkpoint, restore_method
from unlabeled.training.log import RunFolder
from unlabeled.training.pretrain import build_method, open_store, pretrain

SMALL = {"encoder": "resenc-tiny", "patch_size": (32, 32), "grid": 2, "features": 16, "dims": 2}
QUICK = {
    **SMALL,
    "batch_size": 2,
    "samples_per_scan": 1,
    "steps": 2,
    "score_every": 1,
    "held_out_batches": 1,
    "accelerator": "cpu",
    "quiet": True,
}
TRANSLATING = {
    "translate": ("T1", "T2"),
    "translator_width": 4,
    "translator_blocks": 1,
    "critic_width": 4,
    "critic_layers": 2,
}


def method(**options) -> MultimodalPuzzles:
    made = build_method(MultimodalPuzzles, Options(**{**SMALL, **options}), dims=2, channels=2)
    assert isinstance(made, MultimodalPuzzles)
    return made


@pytest.fixture(scope="module")
def records_of(tmp_path_factory):
    """Prepare scans as the method wants them: records by the name of their files."""
    place = tmp_path_factory.mktemp("store")

    def prepare(scans: Path, **options):
        made = Options(**{**SMALL, **options})
        prepared = open_store(MultimodalPuzzles, made, place).prepare(
            index_scans(scans).sources, rule=MultimodalPuzzles.intensity(made)
        )
        return prepared.records

    return prepare


@pytest.fixture(scope="module")
def scans(tmp_path_factory) -> Path:
    """Four patients in two registered contrasts."""
    return write_modalities(tmp_path_factory.mktemp("scans"), patients=4, shape=(24, 22, 12))


@pytest.fixture(scope="module")
def apart(tmp_path_factory) -> Path:
    """Six patients, each in one contrast or the other."""
    place = tmp_path_factory.mktemp("apart")
    return write_modalities(place, patients=6, shape=(24, 22, 12), registered=False)


@pytest.fixture
def record(records_of, scans):
    return records_of(scans)[0]


def body(record) -> module.Body:
    """Give what the method groups a scan into."""
    return module.Body(record, module.body_planes(record, Options()))


def batch_of(made: MultimodalPuzzles, records, count: int = 4) -> module.Puzzle:
    return default_collate(
        [made.views(body(records[at % len(records)]), generator(at)) for at in range(count)]
    )


def still(made: MultimodalPuzzles, record) -> MultimodalPuzzles:
    """Let every puzzle be of the same slice, which is read once."""
    area = made.area(body(record), generator(0))
    made.area = lambda record, rng: area
    return made


def write_volumes(place: Path, rows: dict[str, list[np.ndarray]]) -> Path:
    """Write the modalities of scans and the manifest that names them."""
    written = []
    for name, arrays in rows.items():
        files = [f"{name}-{number}.nii.gz" for number in range(len(arrays))]
        for file, array in zip(files, arrays, strict=True):
            place.mkdir(parents=True, exist_ok=True)
            nibabel.save(nibabel.Nifti1Image(array.astype(np.float32), np.eye(4)), place / file)
        written.append({"image": ";".join(files), "subject": name})
    return write_manifest(place / "scans.csv", written)


def test_must_have_1_every_piece_has_a_modality_of_its_own(record):
    """Over many puzzles each modality has its share, and pieces are drawn independently."""
    made = still(method(), record)
    drawn = torch.stack([made.views(body(record), generator(seed)).modality for seed in range(600)])
    share, sigma = drawn.float().mean(), (0.25 / drawn.numel()) ** 0.5
    assert abs(share - 0.5) < 3 * sigma
    patterns = (drawn * torch.tensor([1, 2, 4, 8])).sum(1)
    assert stats.chisquare(torch.bincount(patterns, minlength=16).numpy()).pvalue > 1e-3


def test_must_have_1_pieces_hold_the_modality_drawn(record):
    """Each piece is the part of its own modality at its place."""
    made = still(method(gap=0.2), record)
    plain = made.area(body(record), generator(0))
    rows, columns = made.puzzle.cells.size
    seen = set()
    for seed in range(6):
        puzzle = made.views(body(record), generator(seed))
        drawn = zip(puzzle.pieces, puzzle.modality, puzzle.starts.tolist(), strict=True)
        for piece, which, (row, column) in drawn:
            assert torch.equal(piece[0], plain[which, row : row + rows, column : column + columns])
            seen.add(int(which))
    assert seen == {0, 1}
    assert not torch.equal(plain[0], plain[1])


@pytest.mark.parametrize("pieces", [4, 9, 25])
def test_must_have_2_sums_are_one(pieces):
    """Columns, which come last, always; rows where logits are as small as fresh ones, or after enough rounds."""
    made, patient = method(), method(rounds=1000)
    rng = torch.Generator().manual_seed(pieces)
    logits = (2 * torch.rand(64, pieces, pieces, generator=rng) - 1) * 5
    for soft in (made.soft(logits), made.soft(logits / 5), patient.soft(logits)):
        assert soft.min() >= 0
        assert (soft.sum(1) - 1).abs().max() < 1e-3
    assert (made.soft(logits / 5).sum(2) - 1).abs().max() < 1e-3
    assert (patient.soft(logits).sum(2) - 1).abs().max() < 1e-3
    assert (made.soft(logits).sum(2) - 1).abs().max() < 0.1


def test_must_have_3_constants_of_rows_and_columns_change_nothing():
    made = method(rounds=200)
    rng = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 9, 9, generator=rng)
    added = torch.randn(3, 9, 1, generator=rng) + torch.randn(3, 1, 9, generator=rng)
    torch.testing.assert_close(made.soft(logits + added), made.soft(logits), atol=1e-4, rtol=0)


def told(made: MultimodalPuzzles, logits: torch.Tensor) -> None:
    """Let the network give these logits, whatever it sees."""
    made.place = lambda slots: logits


def loss_of(made: MultimodalPuzzles, batch: module.Puzzle) -> tuple[float, float]:
    (update,) = made.step(batch)
    return update.loss.item(), update.shows["mean piece"].item()


def test_must_have_4_knowing_all_costs_nothing_and_knowing_nothing_the_spread(record):
    made = method(grid=3, temperature=0.05)
    batch = batch_of(made, [record])
    truth = torch.nn.functional.one_hot(batch.order, 9).float()
    told(made, 20 * truth)
    assert loss_of(made, batch)[0] < 1e-8
    told(made, torch.zeros(4, 9, 9))
    error, spread = loss_of(made, batch)
    assert error == pytest.approx(spread, rel=1e-5)
    assert spread > 0.05


def test_must_have_4_the_target_has_the_modalities_of_the_pieces(record):
    """Put back rightly, a puzzle is exactly the one drawn: no fixed modality would be."""
    made = method()
    batch = batch_of(made, [record])
    slots = in_order(made.complete(batch), batch.order)
    truth = torch.nn.functional.one_hot(batch.order, 4).float()
    assert assembly_error(truth, slots, batch.pieces) == 0
    for modality in (0, 1):
        other = batch_of(made, [record])
        same = (other.modality == modality).all()
        assert not same


def test_must_have_5_permuting_the_pieces_permutes_the_rows(record):
    made = method(grid=3).eval()
    slots = batch_of(made, [record], 2).pieces
    order = torch.randperm(9, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        logits, moved = made.place(slots), made.place(slots[:, order])
    torch.testing.assert_close(moved, logits[:, order], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(made.soft(moved), made.soft(logits)[:, order], atol=1e-5, rtol=1e-4)


def test_must_have_6_cold_permutations_are_the_hungarian_ones(golden: Path):
    arrays = np.load(golden / "multimodal-puzzles" / "sinkhorn.npz")
    for pieces in (4, 9, 25):
        logits = torch.from_numpy(arrays[f"logits_N{pieces}"])
        wanted = torch.from_numpy(arrays[f"match_N{pieces}"]).long()
        assert torch.equal(match(logits), wanted)
        hard = torch.nn.functional.one_hot(wanted, pieces).float()
        far = [
            (sinkhorn(logits, temperature, rounds) - hard).abs().mean().item()
            for temperature, rounds in ((1.0, 100), (0.1, 400), (0.02, 2000))
        ]
        assert far[0] > far[1] > far[2] or far[2] < 1e-6
        warm = sinkhorn(logits, 0.1, 20).argmax(2)
        assert (warm == wanted).float().mean() > 0.8


def test_must_have_7_pieces_in_order_are_the_image(records_of, tmp_path):
    """Without a gap, the pieces of a single modality side by side are the slice."""
    brain, _ = draw_contrasts(1, (32, 32, 6))
    (only,) = records_of(write_volumes(tmp_path, {"p": [brain]}))
    made = method(gap=0.0, single=True)
    puzzle = made.views(body(only), generator(0))
    area = made.area(body(only), generator(0))
    assert torch.equal(module.assemble(puzzle.pieces, (2, 2)), area[:1])
    identity = torch.arange(4)[None]
    assert torch.equal(in_order(puzzle.pieces[None], identity)[0], puzzle.pieces)


def test_must_have_8_all_orders_are_drawn(record):
    made = still(method(), record)
    drawn = [tuple(made.views(body(record), generator(s)).order.tolist()) for s in range(1200)]
    counts = [drawn.count(order) for order in set(drawn)]
    assert len(counts) == math.factorial(4), "the identity is among them"
    assert stats.chisquare(counts).pvalue > 1e-3


def test_must_have_9_three_pieces_go_round_the_right_way(record):
    """With a 3-cycle, S and its transpose differ: the true one costs nothing, the other does."""
    made = method(temperature=0.05)
    batch = batch_of(made, [record], 1)
    batch = batch._replace(order=torch.tensor([[1, 2, 0, 3]]))
    truth = 20 * torch.nn.functional.one_hot(batch.order, 4).float()
    told(made, truth)
    assert loss_of(made, batch)[0] < 1e-8
    assert made.score(batch)["accuracy"] == 1
    told(made, truth.transpose(1, 2))
    assert loss_of(made, batch)[0] > 0.1
    assert made.score(batch)["accuracy"] < 1


def test_must_have_10_synthetic_images_are_seen_by_pretraining_alone(records_of, apart, tmp_path):
    """A scan lends the modality that it lacks; held-out scans lend none, none is written, no translator is carried."""
    made = method(**TRANSLATING)
    records = records_of(apart, **TRANSLATING)
    batch = batch_of(made, records, 40)
    assert batch.modality.float().mean().item() == pytest.approx(0.5, abs=3 * (0.25 / 160) ** 0.5)
    assert torch.equal(batch.synthetic, batch.modality == 1), "one beyond the scan's own"
    wanted = [("T1", "T2").index(r.modality) for r in records]
    assert batch.towards.tolist() == [1 - wanted[at % 6] for at in range(40)]
    made.eval()
    assert not batch_of(made, records, 40).synthetic.any()
    done = pretrain(
        "multimodal-puzzles", apart, tmp_path / "run", cache=tmp_path / "c", **QUICK, **TRANSLATING
    )
    weights, about = read_weights(done.encoder)
    assert not any("translat" in name or "critic" in name for name in weights)
    written = {path.suffix for path in (tmp_path / "run").rglob("*") if path.is_file()}
    assert not written & {".nii", ".gz", ".npy", ".csv"} - {".csv"}
    assert about["channels"] == 1


def test_synthetic_pieces_are_cut_from_what_the_translator_makes(records_of, apart):
    made = method(**TRANSLATING)
    batch = batch_of(made, records_of(apart, **TRANSLATING), 6)
    assert made.translation is not None
    for at, translator in enumerate(made.translation.translators):
        translator.forward = lambda image, at=at: image + 100 * (at + 1)
    pieces = made.complete(batch)
    torch.testing.assert_close(pieces[~batch.synthetic], batch.pieces[~batch.synthetic])
    shift = 100.0 * (batch.towards + 1)[:, None].expand_as(batch.synthetic)
    pairs = pieces[batch.synthetic] - batch.pieces[batch.synthetic]
    wanted = shift[batch.synthetic][:, None, None, None].expand_as(pairs)
    torch.testing.assert_close(pairs, wanted, atol=1e-3, rtol=0)
    assert not pieces.requires_grad


def test_translation_comes_first_and_then_stands_still(records_of, apart):
    made = method(**TRANSLATING)
    records = records_of(apart, **TRANSLATING)
    first, second = made.phases()
    assert (first.name, second.name) == ("translation", "puzzles")
    moved = {id(p) for part in second.trains["main"] for p in part.parameters()}
    assert not moved & {id(p) for p in made.translation.parameters()}
    for name, feed in first.feeds.items():
        accepted = [r for r in records if feed.accepts(r)]
        assert [r.modality for r in accepted] == [name] * 3
    batch = {
        name: default_collate(
            [feed.views(body(r), generator(0)) for r in records if feed.accepts(r)]
        )
        for name, feed in first.feeds.items()
    }
    assert [update.of for update in first.step(batch)] == ["translators", "critics"]
    scores = first.score(batch)
    assert scores["cycle"] == 0, "fresh translators give images back"
    assert scores["blank"] > 0.1
    shown = first.preview(batch)
    assert list(shown) == ["T1", "T1 as T2", "T2", "T2 as T1"]
    assert all(0 <= image.min() <= image.max() <= 1 for image in shown.values())


def test_must_have_11_weights_are_carried_as_they_are(scans, tmp_path):
    """All of the encoder, and the first kernel spread over the modalities of the task, divided by their number."""
    done = pretrain("multimodal-puzzles", scans, tmp_path / "run", cache=tmp_path / "c", **QUICK)
    encoder, _ = load_encoder(done.encoder)
    assert encoder.in_channels == 1
    wide = build_encoder("resenc-tiny", dims=2, in_channels=4)
    load_weights(wide, done.encoder)
    own, theirs = encoder.state_dict(), wide.state_dict()
    entry = f"{encoder.entry}.weight"
    for name, value in own.items():
        wanted = value.expand_as(theirs[name]) / 4 if name == entry else value
        torch.testing.assert_close(theirs[name], wanted)
    kept, _ = read_weights(done.encoder)
    assert not any("decoder" in name for name in kept), "the decoder starts anew"
    image = torch.randn(2, 1, 32, 32)
    for one, other in zip(
        encoder.eval()(image), wide.eval()(image.expand(-1, 4, -1, -1)), strict=True
    ):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-3)


def test_must_have_12_a_missing_modality_is_not_drawn(records_of, tmp_path):
    """Scans with fewer modalities, and scans that hold a constant in place of one."""
    brains = [draw_contrasts(seed, (24, 22, 12)) for seed in range(3)]
    rows = {
        "a": list(brains[0]),
        "b": [brains[1][0]],
        "c": [brains[2][0], np.zeros_like(brains[2][0]), brains[2][1]],
    }
    scans = write_volumes(tmp_path / "scans", rows)
    made = method()
    drawn = {
        r.subject: {
            int(m) for seed in range(20) for m in made.views(body(r), generator(seed)).modality
        }
        for r in records_of(scans)
    }
    assert sorted(map(sorted, drawn.values())) == [[0], [0, 1], [0, 2]]
    done = pretrain("multimodal-puzzles", scans, tmp_path / "run", cache=tmp_path / "c", **QUICK)
    assert done.scans == 3


def test_must_have_12_a_single_modality_makes_a_plain_puzzle(tmp_path):
    write_patients(tmp_path / "scans", patients=4, shape=(20, 20, 12))
    run = {**QUICK, "cache": tmp_path / "c"}
    with pytest.raises(DataError, match="two registered modalities") as refusal:
        pretrain("multimodal-puzzles", tmp_path / "scans", tmp_path / "refused", **run)
    assert "--single" in refusal.value.remedy
    assert "`;`" in refusal.value.remedy
    done = pretrain("multimodal-puzzles", tmp_path / "scans", tmp_path / "run", single=True, **run)
    assert math.isfinite(done.result.score["mse"])


def test_colours_and_empty_scans_are_refused(tmp_path):
    frames = write_frames(tmp_path / "frames")
    with pytest.raises(DataError, match="no modalities"):
        pretrain("multimodal-puzzles", frames, tmp_path / "run", cache=tmp_path / "c", **QUICK)
    brain, _ = draw_contrasts(0, (24, 22, 6))
    scans = write_volumes(tmp_path / "scans", {"p": [brain, brain]})
    with pytest.raises(DataError, match="100% are body"):
        pretrain(
            "multimodal-puzzles", scans, tmp_path / "r", cache=tmp_path / "c", **QUICK,
            least_body=1.0,
        )  # fmt: skip


def test_options_that_cannot_be_met_are_refused(tmp_path, scans):
    for names in (("CT",), ("CT", "CT"), ("CT", "MR", "US")):
        with pytest.raises(OptionError, match="between two modalities"):
            Options(translate=names)
    with pytest.raises(DataError, match="there are T1, T2"):
        pretrain(
            "multimodal-puzzles", scans, tmp_path / "r", cache=tmp_path / "c", **QUICK,
            translate=("CT", "T1"),
        )  # fmt: skip
    with pytest.raises(OptionError, match="too small for resnet18") as refusal:
        method(encoder="resnet18")
    edges = refusal.value.remedy.split("--patch-size ")[1].split(",")[0].split()
    assert method(encoder="resnet18", patch_size=tuple(map(int, edges))).puzzle.pieces == 4
    with pytest.raises(OptionError, match="5 x 5 pixels are too small for unet") as refusal:
        method(encoder="unet", patch_size=(12, 12))
    edges = refusal.value.remedy.split("--patch-size ")[1].split(",")[0].split()
    made = method(encoder="unet", patch_size=tuple(map(int, edges)))
    assert made.puzzle.cells.size == (16, 16)
    with pytest.raises(OptionError, match="cannot be cut into 2 x 2"):
        method(patch_size=(1, 9))
    for low in (0.01, 0.049):
        with pytest.raises(OptionError):
            Options(temperature=low)


def test_a_u_net_gets_pieces_that_it_can_halve():
    assert method(encoder="unet", patch_size=(192, 192), grid=3).puzzle.cells.size == (56, 56)
    assert method(patch_size=(192, 192), grid=3).puzzle.cells.size == (57, 57)


def test_intensities_of_pieces_change_each_by_itself_on_demand(record):
    made = method(brightness=0.5, contrast=0.3)
    batch = batch_of(made, [record])
    plain, changed = batch.pieces, made.complete(batch)
    factor, added = batch.changes.unbind(-1)
    assert factor.unique().numel() == factor.numel()
    wanted = plain[0, 1] * (1 + 0.3 * factor[0, 1]) + 0.5 * added[0, 1]
    torch.testing.assert_close(changed[0, 1], wanted)
    assert torch.equal(method().complete(batch), plain), "off by default"
    made.eval()
    held_out = batch_of(made, [record])
    assert torch.equal(made.complete(held_out), held_out.pieces)


def test_held_out_pieces_lie_in_the_middle_of_their_cells(record):
    made = method(gap=0.2)
    starts = {
        tuple(made.views(body(record), generator(s)).starts.flatten().tolist()) for s in range(9)
    }
    assert len(starts) > 1
    made.eval()
    starts = {
        tuple(made.views(body(record), generator(s)).starts.flatten().tolist()) for s in range(9)
    }
    assert len(starts) == 1


def test_intensities_of_other_units_enter_alike(records_of, tmp_path):
    """Each modality of a scan is standardised by itself."""
    brain, _ = draw_contrasts(0, (24, 22, 12))
    (only,) = records_of(write_volumes(tmp_path, {"p": [brain, 300 * brain + 70]}))
    area = method().area(body(only), generator(0))
    torch.testing.assert_close(area[0], area[1], atol=1e-2, rtol=0)
    assert area.std() > 0.3
    assert MultimodalPuzzles.intensity(Options()).kind == "zscore"


def test_the_rate_falls_on_a_cosine():
    made = method(**TRANSLATING)
    adam, schedule = made.optimiser("main", [made.head])
    assert isinstance(adam, torch.optim.Adam)
    assert adam.param_groups[0]["lr"] == 1e-4
    assert schedule(5, 10) == pytest.approx(0.5)
    adam, schedule = made.optimiser("critics", [made.translation])
    assert (adam.param_groups[0]["lr"], adam.param_groups[0]["betas"]) == (2e-4, (0.5, 0.999))
    assert (schedule(5, 10), schedule(10, 10)) == (1, 0)
    defaults = Options()
    assert (defaults.grid, defaults.temperature, defaults.rounds) == (3, 0.5, 20)
    assert (defaults.features, defaults.batch_size) == (512, 16)


def test_previews_show_the_puzzle_put_back(record):
    made = method(temperature=0.05)
    batch = batch_of(made, [record], 3)
    told(made, 20 * torch.nn.functional.one_hot(batch.order, 4).float())
    shown = made.preview(batch)
    assert list(shown) == ["given", "put back", "put back softly", "as it was"]
    assert all(0 <= image.min() <= image.max() <= 1 for image in shown.values())
    assert torch.equal(shown["put back"], shown["as it was"])
    torch.testing.assert_close(shown["put back softly"], shown["as it was"], atol=1e-4, rtol=0)
    assert not torch.equal(shown["given"], shown["as it was"])


def test_previews_of_volumes_have_the_front_up_and_pictures_lie_as_they_are(
    record, apart, records_of
):
    made = method(temperature=0.05, patch_size=(32, 48), gap=0.0)
    batch = batch_of(made, [record], 2)
    assert bool(batch.axial.all())
    (upper, _), (whole, _) = (
        made.preview(batch._replace(axial=at))["as it was"] for at in (batch.axial, ~batch.axial)
    )
    assert whole.shape == (1, 34, 50)
    assert torch.equal(upper, whole.transpose(1, 2).flip(1)), "left to right, and the front up"
    made = method(**TRANSLATING)
    assert made.translation is not None
    records = records_of(apart, **TRANSLATING)
    pictures = {
        name: default_collate(
            [made.picture(name, body(r), generator(0)) for r in records if r.modality == name]
        )
        for name in ("T1", "T2")
    }
    shown = made.translation.preview(pictures)
    flat = {name: each._replace(axial=~each.axial) for name, each in pictures.items()}
    for caption, image in made.translation.preview(flat).items():
        assert torch.equal(shown[caption], image.mT.flip(-2))


def test_which_slices_may_be_drawn_is_looked_up_once(records_of, scans):
    made, records = method(least_body=0.3), records_of(scans)
    bodies = made.bodies(records)
    assert [each.record for each in bodies] == list(records)
    for each in bodies:
        counts = each.record.extras["body_pixels"].whole().reshape(-1)
        least = 0.3 * each.record.space[0] * each.record.space[1]
        assert each.planes.tolist() == [at for at, count in enumerate(counts) if count >= least]
        assert 0 < len(each.planes) < each.record.space[2]
    (feed,) = made.phases()[0].feeds.values()
    assert [each.record for each in feed.group(records)] == list(records)


def test_a_run_with_translation_goes_on_as_if_never_stopped(apart, tmp_path):
    """Killed among the puzzles, a run goes on with the translators that it has learnt."""
    values = {**QUICK, **TRANSLATING, "steps": 6, "translation_share": 1.0, "cache": tmp_path / "c"}
    whole = pretrain("multimodal-puzzles", apart, tmp_path / "whole", **values)
    assert whole.result.steps == 6
    views, calls = MultimodalPuzzles.views, 0

    class Killed(Exception):  # noqa: N818
        """Stands for kill -9."""

    def killed(self, record, rng):
        nonlocal calls
        calls += self.training
        if calls > 2:
            raise Killed
        return views(self, record, rng)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MultimodalPuzzles, "views", killed)
        with pytest.raises(Killed):
            pretrain("multimodal-puzzles", apart, tmp_path / "cut", checkpoint_steps=1, **values)
    again = pretrain("multimodal-puzzles", apart, tmp_path / "cut", resume=True, **values)
    one, other = (read_weights(done.encoder)[0] for done in (whole, again))
    assert all(torch.equal(one[name], other[name]) for name in one)


SET = "brain-tumour-mri and brain-ms-multimodal"
PROOF = {
    "encoder": "resenc-tiny",
    "patch_size": (96, 96),
    "grid": 3,
    "features": 64,
    "batch_size": 8,
    "samples_per_scan": 64,
    "lr": 1e-3,
    "steps": 300,
    "score_every": 100,
    "held_out_batches": 16,
    "accelerator": "cpu",
    "quiet": True,
}


def brains(data: Path, place: Path) -> Path:
    """Three patients with a tumour (FLAIR, T1 with contrast), two with sclerosis (T1, T2, FLAIR, T1 with contrast).

    One of each is held out; the patient that the set keeps for tests stays unseen.
    """
    place.mkdir(parents=True)
    rows = []
    for number in (3, 5, 6):
        name = f"brats13_pat{number:04d}"
        source = data / "brain-tumour-mri"
        inside = np.asarray(nibabel.load(source / f"{name}_brainmask.nii.gz").dataobj) > 0
        files = []
        for kind in ("flair", "t1c"):
            scan = nibabel.load(source / f"{name}_{kind}.nii.gz")
            array = np.asarray(scan.dataobj)
            dark = np.where(inside, array, array[inside].min() - 1).astype(np.int16)
            files.append(f"{name}_{kind}.nii.gz")
            nibabel.save(nibabel.Nifti1Image(dark, scan.affine), place / files[-1])
        rows.append((files, "FLAIR;T1c", name, "val" if number == 3 else "train"))
    for name in ("ms07", "ms19"):
        kinds = ("t1", "t2", "flair", "t1post")
        files = [str(data / "brain-ms-multimodal" / f"{name}_{kind}.nii.gz") for kind in kinds]
        rows.append((files, "T1;T2;FLAIR;T1c", name, "val" if name == "ms19" else "train"))
    return write_manifest(
        place / "scans.csv",
        [
            {"image": ";".join(files), "modality": named, "subject": subject, "split": split}
            for files, named, subject, split in rows
        ],
    )


def closeness(done, scans: Path, cache: Path) -> tuple[float, float]:
    """How alike the features of a place are in two modalities, and those of two places: mean cosines, held out."""
    made = Options(**{k: v for k, v in PROOF.items() if hasattr(Options, k)}, dims=2)
    prepared = open_store(MultimodalPuzzles, made, cache).prepare(
        index_scans(scans).sources, rule=MultimodalPuzzles.intensity(made)
    )
    held = [r for r in prepared.records if r.source.split == "val"]
    encoder, _ = load_encoder(done.encoder)
    own = MultimodalPuzzles(made, encoder).eval()
    same, other = [], []
    for seed in range(24):
        area = own.area(body(held[seed % len(held)]), generator(seed))[:2]
        seen = []
        for modality in (0, 1):
            mixture = own.puzzle.draw([modality], generator(0), jittered=False)
            with torch.no_grad():
                seen.append(pool(encoder(own.puzzle.cut(area, mixture))))
        first, second = (torch.nn.functional.normalize(each - each.mean(0), dim=1) for each in seen)
        alike = first @ second.T
        same.append(alike.diagonal().mean())
        other.append((alike.sum() - alike.diagonal().sum()) / 72)
    return torch.stack(same).mean().item(), torch.stack(other).mean().item()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_small_scale_proof_on_real_scans(shared_data: Path, tmp_path: Path, proof):
    """Pieces of held-out brains go where they belong, and places look alike to the encoder whatever the contrast."""
    scans = brains(shared_data, tmp_path / "scans")
    done = pretrain("multimodal-puzzles", scans, tmp_path / "run", cache=tmp_path / "c", **PROOF)
    scores = done.result.score
    same, other = closeness(done, scans, tmp_path / "c")
    figures = {name: scores[name] for name in ("accuracy", "chance", "whole", "mse", "mean piece")}
    closer = {"likeness of a place": same, "likeness of two places": other}
    proof(
        "multimodal-puzzles",
        data=SET,
        **figures,
        **closer,
        seconds=done.result.seconds,
    )
    assert scores["accuracy"] > 0.8
    assert scores["mse"] < 0.3 * scores["mean piece"]
    assert same > other + 0.8


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_small_scale_proof_fails_where_pieces_have_no_place(
    shared_data: Path, tmp_path: Path, proof
):
    """Trained on puzzles whose pieces lie anywhere, the network knows nothing of places: the bars are missed."""
    scans = brains(shared_data, tmp_path / "scans")
    views = MultimodalPuzzles.views

    def astray(self, record, rng):
        puzzle = views(self, record, rng)
        if self.training:
            puzzle = puzzle._replace(
                pieces=puzzle.pieces[torch.randperm(self.puzzle.pieces, generator=rng)]
            )
        return puzzle

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MultimodalPuzzles, "views", astray)
        done = pretrain(
            "multimodal-puzzles", scans, tmp_path / "run", cache=tmp_path / "c", **PROOF
        )
    scores = done.result.score
    figures = {name: scores[name] for name in ("accuracy", "chance", "mse", "mean piece")}
    same, other = closeness(done, scans, tmp_path / "c")
    closer = {"likeness of a place": same, "likeness of two places": other}
    proof("multimodal-puzzles", data=f"{SET}, places astray", **figures, **closer)
    assert scores["accuracy"] < 0.25
    assert scores["mse"] > 0.8 * scores["mean piece"]


LEARNING_TO_TRANSLATE = {
    **{**SMALL, **TRANSLATING},
    "translator_width": 8,
    "translator_blocks": 2,
    "critic_width": 16,
    "translation_lr": 1e-3,
    "translation_share": 19.0,
    "cycle": 5.0,
    "identity": 1.0,
    "batch_size": 8,
    "samples_per_scan": 200,
    "steps": 240,
    "held_out_batches": 1,
    "accelerator": "cpu",
    "quiet": True,
}


def translate_patients(place: Path, *, astray: bool = False) -> dict[str, float]:
    """Learn translation between unregistered contrasts, and tell how far made slices of new patients are from true ones.

    Beside them, how far the slice as it was is, and the mean slice of what was learnt from.  With `astray`, every second
    patient of either contrast goes by the name of the other.
    """
    scans = write_modalities(place / "s", patients=24, shape=(32, 32, 16), registered=False)
    if astray:
        with scans.open(newline="") as file:
            rows = list(csv.DictReader(file))
        named = {"T1": "T2", "T2": "T1"}
        for row in (row for number, row in enumerate(rows) if number // 2 % 2):
            row["modality"] = named[row["modality"]]
        write_manifest(scans, rows)
    own = Options(**{k: v for k, v in LEARNING_TO_TRANSLATE.items() if hasattr(Options, k)})
    done = pretrain(
        "multimodal-puzzles", scans, place / "run", cache=place / "c", **LEARNING_TO_TRANSLATE
    )
    assert done.result.exit_reason == "finished"
    made = build_method(MultimodalPuzzles, own, dims=2, channels=1)
    assert isinstance(made, MultimodalPuzzles)
    restore_method(read_checkpoint(RunFolder(done.out).last), made.eval())
    new = write_modalities(place / "new", patients=8, shape=(32, 32, 16), seed=7)
    store = open_store(MultimodalPuzzles, own, place / "c")
    seen, unseen = (
        store.prepare(index_scans(each).sources, rule=MultimodalPuzzles.intensity(own)).records
        for each in (scans, new)
    )
    areas = torch.stack([made.area(body(unseen[n % 8]), generator(n)) for n in range(48)])
    true = areas[:, :1], areas[:, 1:]
    figures = {"error": 0.0, "untranslated": 0.0, "mean_slice": 0.0}
    for at, name in enumerate(("T1", "T2")):
        of_it = [r for r in seen if f"-{name}" in r.source.name]
        mean = torch.stack(
            [made.area(body(r), generator(n)) for r in of_it for n in range(8)]
        ).mean(0)
        with torch.no_grad():
            given = made.translation(true[1 - at], at)
        for figure, guess in (
            ("error", given),
            ("untranslated", true[1 - at]),
            ("mean_slice", mean),
        ):
            figures[figure] += float((guess - true[at]).abs().mean()) / 2
        figures[f"error_of_{name}"] = float((given - true[at]).abs().mean())
    return figures


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_small_scale_proof_of_translation(tmp_path: Path, proof):
    """Slices of new patients come nearer to how the other scanner saw them, though nobody was scanned by both."""
    figures = translate_patients(tmp_path)
    proof("multimodal-puzzles", data="phantom, translation", **figures)
    for name in ("T1", "T2"):
        assert figures[f"error_of_{name}"] < 0.9 * figures["untranslated"]
        assert figures[f"error_of_{name}"] < 0.9 * figures["mean_slice"]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_small_scale_proof_of_translation_fails_where_names_are_exchanged(tmp_path: Path, proof):
    """Half of either contrast goes by the name of the other: there is nothing to translate to."""
    figures = translate_patients(tmp_path, astray=True)
    proof("multimodal-puzzles", data="phantom, translation, names exchanged", **figures)
    assert figures["error"] > 0.95 * figures["untranslated"]
