"""Every must-have of fMRI reconstruction, and that pictures come back from responses of a real brain."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import default_collate

from unlabeled.data import fmri, stimuli
from unlabeled.data.index import index_scans
from unlabeled.data.stimuli import Pair, Picture, Response
from unlabeled.demo.subjects import write_manifest, write_subject
from unlabeled.errors import DataError, OptionError, RunError
from unlabeled.losses.reconstruction import (
    group_lasso,
    identification,
    pixel_correlations,
    reliable_error,
)
from unlabeled.methods.fmri_reconstruction import KEEP, FMRIReconstruction, Options
from unlabeled.nn.caffenet import MEANS
from unlabeled.nn.encoders import build_encoder
from unlabeled.rng import generator
from unlabeled.training.loader import held_out_batch, items_of, make_plan
from unlabeled.training.pretrain import build_method, open_store, pretrain
from unlabeled.transfer.predict import predict
from unlabeled.transfer.products import load_method

SIZES = {
    "pairs": 12,
    "held_out": 4,
    "tested": 5,
    "loose": 9,
    "repeats": 4,
    "voxels": 20,
    "edge": 16,
}
SMALL = {"patch_size": (16, 16), "batch_size": 8, "unpaired": 2, "voxels": 20}
BOTH = pytest.mark.parametrize("fidelity", ["clean", "official"])
EVERY = {"streams": "both", "test_responses": True}


@pytest.fixture(scope="module")
def subject(tmp_path_factory) -> Path:
    return write_subject(tmp_path_factory.mktemp("subject"), **SIZES)


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("store")


@pytest.fixture
def records(subject, store):
    options = Options(**SMALL)
    opened = open_store(FMRIReconstruction, options, store)
    rule = FMRIReconstruction.intensity(options)
    return opened.prepare(index_scans(subject).sources, rule=rule).records


def method(**changes) -> FMRIReconstruction:
    torch.manual_seed(0)
    options = Options(**{**SMALL, **changes})
    made = build_method(FMRIReconstruction, options, dims=2, channels=1)
    assert isinstance(made, FMRIReconstruction)
    return made


def batch_of(made, records, number: int):
    """Make a batch of one phase, as the loop would."""
    phase = made.phases()[number]
    return held_out_batch(phase, items_of(phase, learnt(made, records)), seed=0, number=0)


def learnt(made, records):
    """Leave out what the split does."""
    splits = made.learns_from(made.options)
    return [each for each in records if (each.source.split or "train") in splits]


def perform(made, records, number: int, steps: int = 2) -> None:
    """Run a few steps of a phase."""
    phase = made.phases()[number]
    if phase.before is not None:
        phase.before(learnt(made, records))
    moved = {name: made.optimiser(name, each)[0] for name, each in phase.trains.items()}
    for _ in range(steps):
        made.train()
        for update in phase.step(batch_of(made, records, number)):
            moved[update.of].zero_grad()
            update.loss.backward()
            moved[update.of].step()


def state(*modules: nn.Module) -> dict[str, torch.Tensor]:
    pairs = enumerate(modules)
    return {f"{i}.{n}": v.clone() for i, each in pairs for n, v in each.state_dict().items()}


@BOTH
def test_must_have_1_the_encoder_is_frozen_while_the_decoder_learns(records, fidelity):
    made = method(fidelity=fidelity, **EVERY)
    perform(made, records, 0)
    before, decoder = state(made.encoder, made.readout), state(made.decoder)
    perform(made, records, 1, steps=3)
    after = state(made.encoder, made.readout)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not any(
        p.requires_grad for p in (*made.encoder.parameters(), *made.readout.parameters())
    )
    assert any(not torch.equal(decoder[name], v) for name, v in state(made.decoder).items())
    perform(made, records, 0)
    assert all(p.requires_grad for p in (*made.encoder.parameters(), *made.readout.parameters()))


def test_must_have_2_a_batch_of_the_decoder_holds_48_pairs_and_16_rows_without():
    made = method(batch_size=64, unpaired=16)
    feeds = made.phases()[1].feeds
    assert {name: feed.batch_size for name, feed in feeds.items()} == {
        "pairs": 48,
        "pictures": 16,
        "responses": 16,
    }
    assert Picture._fields == ("picture",)  # a loose picture has no response to be compared with
    assert (Options().batch_size, Options().unpaired) == (64, 16)


def test_must_have_3_of_what_has_no_pair_the_target_is_the_input(records):
    """Losses of loose rows are 0 (or -0.1) where decoder and encoder undo each other."""
    made = method(smoothness=0.0, decoder_lasso=(0.0, 0.0), **EVERY).eval()
    batch = batch_of(made, records, 1)
    picture, response = batch["pictures"].picture, batch["responses"].response
    made.unlike.forward = lambda truth, guess: (truth - guess).abs().flatten(1).sum(1)
    made.decoder.forward = lambda given: (
        picture if given.shape[0] == 2 else torch.cat([batch["pairs"].picture, picture])
    )
    answers = iter([torch.zeros(2, 20), response])
    made.respond = lambda given, dropout=0.0: next(answers)
    (update,) = made.decode(batch)
    assert float(update.shows["picture"].detach()) == 0
    assert float(update.shows["voxels"].detach()) == pytest.approx(-0.1, abs=1e-6)


def test_must_have_4_a_loose_response_averages_a_random_part_of_one_stimulus(records):
    made = method(**EVERY)
    tested = [each for each in records if each.source.split == "test"]
    parts = [(each, kept) for each in range(5) for kept in every_part(4)]
    heard = [stimuli.responses_of(each) for each in tested]
    averages = torch.stack([heard[each][list(kept)].mean(0) for each, kept in parts])
    counts = np.zeros(5)
    for seed in range(300):
        drawn = made.loose_response(tested, generator(seed)).response
        (fit,) = torch.nonzero((averages - drawn).abs().amax(1) < 1e-5)
        counts[len(parts[int(fit)][1])] += 1
    chances = np.array(
        [0, *(binomial(4, k) * KEEP**k * (1 - KEEP) ** (4 - k) for k in (1, 2, 3, 4))]
    )
    np.testing.assert_allclose(counts / 300, chances / chances.sum(), atol=0.1)


def every_part(repeats: int) -> list[tuple[int, ...]]:
    return [tuple(k for k in range(repeats) if mask >> k & 1) for mask in range(1, 1 << repeats)]


def binomial(n: int, k: int) -> int:
    from math import comb

    return comb(n, k)


def test_must_have_4_averages_equal_the_published_ones(golden):
    arrays = np.load(golden / "fmri-reconstruction" / "test_fmri_average.npz")
    for label in range(4):
        own = np.flatnonzero(arrays["labels"] == label)
        kept = np.isin(own, arrays[f"indexes_label{label}"])
        responses = torch.from_numpy(arrays["Y_test"][own])
        np.testing.assert_allclose(
            responses[torch.from_numpy(kept)].mean(0), arrays[f"average_label{label}"], atol=1e-6
        )
    for seed in range(200):
        assert stimuli.draw_repeats(3, KEEP, generator(seed)).any()


def test_must_have_5_the_shift_changes_only_what_the_encoder_sees(records):
    pair = next(each for each in records if stimuli.is_pair(each))
    shown = stimuli.picture_of(pair)
    moved = 0
    for seed in range(30):
        sample = method().views(pair, generator(seed))
        assert torch.equal(sample.picture, shown)
        rows = [
            r
            for r in range(-5, 6)
            for c in range(-5, 6)
            if torch.equal(shifted(shown, r, c), sample.shifted)
        ]
        assert rows, "no shift by at most five pixels with repeated edges"
        moved += not torch.equal(sample.shifted, shown)
    assert moved > 20
    still = method(max_shift=0).views(pair, generator(1))
    assert torch.equal(still.shifted, still.picture)


def shifted(picture: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    edge = picture.shape[1]
    take = [(torch.arange(edge) - by).clamp(0, edge - 1) for by in (rows, columns)]
    return picture[:, take[0]][:, :, take[1]]


def test_the_encoder_learns_from_shifted_pictures_and_is_scored_on_whole_ones(records):
    made = method()
    pair = next(each for each in records if stimuli.is_pair(each))
    batch = default_collate([made.views(pair, generator(seed)) for seed in range(4)])
    assert not torch.equal(batch.shifted, batch.picture)
    seen = []
    respond = made.respond
    made.respond = lambda picture, *rest: seen.append(picture) or respond(picture, *rest)
    next(made.step(batch))
    made.score(batch)
    assert torch.equal(seen[0], batch.shifted)
    assert torch.equal(seen[1], batch.picture)


def test_loose_responses_move_the_decoder_by_what_reliable_voxels_say(records):
    """The other losses switched off, its gradient comes through the frozen encoder, and not from a voxel that is noise."""
    made = method(
        smoothness=0.0, decoder_lasso=(0.0, 0.0), streams="responses", test_responses=True
    )
    made.eval()
    made.unlike.forward = lambda truth, guess: truth.new_zeros(len(truth))
    batch = batch_of(made, records, 1)
    found = []
    for trusted in (1.0, 0.0):
        made.reliability.fill_(1.0)
        made.reliability[:10] = trusted
        (update,) = made.decode(batch)
        heard = batch["responses"].response
        drawn = made.decoder(torch.cat([batch["pairs"].response, heard]))[-len(heard) :]
        expected = reliable_error(heard, made.respond(drawn), made.reliability, 0.1).mean()
        torch.testing.assert_close(update.shows["voxels"], expected)
        slopes = torch.autograd.grad(update.shows["voxels"], made.decoder.embed.weight)
        found.append(slopes[0])
    assert all(slope.abs().sum() > 0 for slope in found)
    assert not torch.allclose(*found)


def test_must_have_6_a_perfect_response_costs_minus_a_tenth(records):
    made = method().eval()
    pairs = batch_of(made, records, 0)
    made.respond = lambda picture, dropout=0.0: pairs.response
    (update,) = made.step(pairs)
    assert float(update.shows["error"].detach()) == pytest.approx(-0.1, abs=1e-6)


def test_must_have_7_groups_of_weights_are_pressed_in_both_dense_layers(records):
    made = method(encoder_lasso=(10.0, 800.0), decoder_lasso=(20.0, 400.0), **EVERY)
    assert made.readout.weight.shape == (20, 32, 2, 2)  # voxel, channel, row, column
    assert made.decoder.embed.weight.shape == (20, 64, 2, 2)
    for number, weight, lasso in (
        (0, made.readout.weight, (10.0, 800.0)),
        (1, made.decoder.embed.weight, (20.0, 400.0)),
    ):
        step = made.phases()[number].step
        (update,) = step(batch_of(made, records, number))
        near, alone = (float(group_lasso(weight.detach(), *lasso, n)) for n in (0.5, 0.0))
        assert near != pytest.approx(alone, rel=1e-6)
        pressed = float(update.shows["pressed"].detach())
        assert near < pressed < near + 1.5  # and a little for the kernels of the convolutions
    assert Options().encoder_lasso == (10.0, 800.0)
    assert Options().decoder_lasso == (20.0, 400.0)


def test_must_have_8_smooth_pictures_cost_less(records):
    made = method(smoothness=1.0)
    flat = torch.full((1, 3, 16, 16), 0.5)
    assert float(made.unlike(flat, flat)) == 0
    rough = flat + 0.1 * torch.randn(1, 3, 16, 16, generator=generator(0))
    assert float(made.unlike(rough, rough)) > 0
    assert float(method(smoothness=0.0).unlike(rough, rough)) == 0


def test_must_have_9_the_networks_have_the_published_shapes():
    made = method(patch_size=(112, 112))
    maps = made.encoder(torch.rand(1, 3, 112, 112).expand(2, -1, -1, -1))
    assert [tuple(each.shape[1:]) for each in maps] == [(96, 56, 56), (32, 28, 28), (32, 14, 14)]
    assert made.readout.weight.shape == (20, 32, 14, 14)
    assert made.decoder.embed.bias.shape == (64, 14, 14)
    drawn = made.decoder(torch.randn(2, 20))
    assert drawn.shape == (2, 3, 112, 112)
    assert 0 < drawn.min() < drawn.max() < 1
    assert Options().patch_size == (112, 112)


def test_must_have_10_rates_equal_the_published_tables(golden):
    arrays = np.load(golden / "fmri-reconstruction" / "lr_schedules.npz")
    made = method()
    for name, modules, epochs in (("encoder", made.encoder, 80), ("decoder", made.decoder, 150)):
        optimiser, schedule = made.optimiser(name, [modules])
        rates = [
            optimiser.param_groups[0]["lr"] * schedule(epoch, epochs) for epoch in range(epochs)
        ]
        np.testing.assert_allclose(rates, arrays[f"{name}_lr"], rtol=1e-6)  # the tables are float32
    shares = [phase.share for phase in made.phases()]
    assert [Options().epochs * share / sum(shares) for share in shares] == [80, 150]
    sgd, adam = (
        made.optimiser(n, [m])[0] for n, m in (("encoder", made.encoder), ("decoder", made.decoder))
    )
    assert (sgd.defaults["momentum"], sgd.defaults["nesterov"]) == (0.9, True)
    assert adam.defaults["amsgrad"]


@BOTH
def test_must_have_11_reliability_has_mean_one_and_a_voxel_without_counts_nothing(
    records, fidelity
):
    made = method(fidelity=fidelity, **EVERY)
    perform(made, records, 1, steps=0)
    assert float(made.reliability.mean()) == pytest.approx(1, abs=1e-5)
    assert float(made.reliability.std()) > 0.01
    heard = [
        stimuli.responses_of(each).numpy()
        for each in learnt(made, records)
        if each.source.responses
    ]
    expected = fmri.reliability(heard, by_sample=fidelity == "official")
    np.testing.assert_allclose(made.reliability, expected)
    truth, guess = torch.randn(2, 4, 20)
    trusted = torch.ones(20)
    trusted[3] = 0
    other = guess.clone()
    other[:, 3] += 9
    torch.testing.assert_close(
        reliable_error(truth, guess, trusted, 0.0), reliable_error(truth, other, trusted, 0.0)
    )


def test_must_have_12_runs_are_standardised_one_by_one(subject, records):
    for split in ("train", "val", "test"):
        run = np.load(subject.parent / f"{split}.npy")
        made = fmri.standardise(run)
        np.testing.assert_allclose(made.mean(0), 0, atol=1e-5)
        np.testing.assert_allclose(made.std(0), 1, atol=1e-5)
        heard = [
            stimuli.responses_of(r)
            for r in records
            if r.source.split == split and r.source.responses
        ]
        kept = torch.cat(heard).numpy()
        assert {tuple(row) for row in kept.tolist()} == {tuple(row) for row in made.tolist()}


@pytest.mark.parametrize(
    ("streams", "feeds"),
    [
        ("both", ["pairs", "pictures", "responses"]),
        ("pictures", ["pairs", "pictures"]),
        ("responses", ["pairs", "responses"]),
        ("none", ["pairs"]),
    ],
)
def test_must_have_13_a_stream_is_left_out_by_one_option(records, streams, feeds):
    made = method(streams=streams, test_responses=streams in ("both", "responses"))
    assert list(made.phases()[1].feeds) == feeds
    assert made.phases()[1].feeds["pairs"].batch_size == (8 if streams == "none" else 6)
    perform(made, records, 1, steps=1)
    scores = made.phases()[1].score(batch_of(made, records, 1))
    assert 0 <= float(scores["identification"]) <= 1


def test_test_rows_are_not_learnt_from_unless_asked(records):
    """With the option their responses are; never their pictures, never as pairs."""
    tested = {each.source.name for each in records if each.source.split == "test"}
    for asked in (False, True):
        made = method(streams="responses" if asked else "none", test_responses=asked)
        phase = made.phases()[1]
        listed = items_of(phase, learnt(made, records))
        assert not tested & {each.source.name for each in listed["pairs"]}
        assert Options().test_responses is False
        if asked:
            (drawn_from,) = listed["responses"]
            assert {each.source.name for each in drawn_from} == tested
    made = method(**EVERY)
    (pictures,) = items_of(made.phases()[1], learnt(made, records))["pictures"]
    assert not tested & {each.source.name for each in pictures}
    assert any("transductive" in note for note in made.notes())
    assert not any("transductive" in note for note in method().notes())


def test_the_gradient_of_loose_responses_is_that_of_a_mean_over_all_rows(records):
    made = method(smoothness=0.0, decoder_lasso=(0.0, 0.0), **EVERY).eval()
    batch = batch_of(made, records, 1)
    (update,) = made.decode(batch)
    shows = update.shows
    expected = shows["picture"] + shows["pressed"] + shows["voxels"] * 2 / 8
    torch.testing.assert_close(update.loss, expected)


def test_official_means_are_those_of_the_wrong_channels():
    seen = {}
    for fidelity in ("clean", "official"):
        made = method(fidelity=fidelity).eval()
        made.encoder.conv1.register_forward_pre_hook(
            lambda _, given, name=fidelity: seen.__setitem__(name, given[0][0, :, 8, 8])
        )
        made.respond(torch.full((1, 3, 16, 16), 0.5))
    torch.testing.assert_close(seen["clean"], 127.5 - torch.tensor(MEANS[::-1]), atol=1e-3, rtol=0)
    torch.testing.assert_close(seen["official"], 127.5 - torch.tensor(MEANS), atol=1e-3, rtol=0)


def test_the_official_frozen_encoder_depends_on_companions_and_drops_features(records):
    for fidelity, same in (("clean", True), ("official", False)):
        made = method(fidelity=fidelity, streams="pictures")
        perform(made, records, 0, steps=3)
        made.train()
        batch = batch_of(made, records, 1)
        with torch.no_grad():
            losses = [float(next(made.decode(batch)).shows["picture"]) for _ in range(2)]
            assert (losses[0] == losses[1]) == same
            made._freeze(True)
            alone, among = (
                made.respond(batch["pictures"].picture[:1]),
                made.respond(batch["pictures"].picture),
            )
            assert torch.allclose(alone, among[:1], atol=1e-4) == same


def test_caffenets_filters_come_from_a_file_and_stay(tmp_path, records):
    path = tmp_path / "caffe.pth"
    filters = {"conv1.weight": torch.randn(96, 3, 11, 11) * 0.01, "conv1.bias": torch.zeros(96)}
    torch.save(filters, path)
    made = method(conv1=str(path))
    assert not any("conv1" in note for note in made.notes())
    perform(made, records, 0)
    assert torch.equal(made.encoder.conv1.weight, filters["conv1.weight"])
    assert made.encoder.conv2.weight.requires_grad
    other = tmp_path / "alex.pth"
    torch.save({"conv1.weight": torch.zeros(64, 3, 11, 11), "conv1.bias": torch.zeros(64)}, other)
    with pytest.raises(RunError, match="no first layer of a CaffeNet"):
        FMRIReconstruction.suit(Options(**SMALL, streams="none", conv1=str(other)), records)
    with pytest.raises(OptionError, match="resnet18 has another one"):
        Options(conv1=str(path), encoder="resnet18")


def test_vgg_features_come_from_a_file(tmp_path, records):
    torch.manual_seed(1)
    tensors = {}
    for place, entering, leaving in ((0, 3, 64), (2, 64, 64), (5, 64, 128), (7, 128, 128)):
        conv = nn.Conv2d(entering, leaving, 3)
        tensors |= {f"features.{place}.{n}": v for n, v in conv.state_dict().items()}
    path = tmp_path / "vgg19.pth"
    torch.save(tensors, path)
    made = method(vgg=str(path), streams="none")
    perform(made, records, 1, steps=1)
    assert made.unlike.vgg is not None
    assert torch.equal(made.unlike.vgg.convs[3].bias, tensors["features.7.bias"])
    assert float(made.unlike.magnitude1.min()) > 0
    assert not any("vgg" in note for note in made.notes())
    assert sum("no --" in note for note in method().notes()) == 2


def test_another_encoder_serves(records):
    made = method(encoder="resenc-tiny", streams="pictures")
    perform(made, records, 0, steps=1)
    perform(made, records, 1, steps=1)
    scores = made.eval().score(batch_of(made, records, 0))
    assert scores["error"].isfinite()


def test_wrong_data_are_refused_with_what_is_missing(records, tmp_path):
    def refuse(rows, says, **options):
        with pytest.raises(DataError, match=says) as refused:
            FMRIReconstruction.suit(Options(**{**SMALL, "voxels": None, **options}), rows)
        return refused.value.remedy

    loose = [each for each in records if stimuli.is_loose_picture(each)]
    pairs = [each for each in records if stimuli.is_pair(each) and each.source.split == "train"]
    assert "column `response`" in refuse(loose, "none of 9 scans has a response")
    assert "--streams responses" in refuse(pairs, "a picture without a response")
    assert "--test-responses" in refuse([*pairs, *loose], "a response without a picture")
    held = [each for each in records if each.source.split == "val"]
    assert "`image` and `response`" in refuse(held, "a picture with a response for training")
    suited = FMRIReconstruction.suit(Options(**{**SMALL, "voxels": None}, **EVERY), records)
    assert suited.voxels == 20
    assert FMRIReconstruction.suit(suited, records) == suited
    with pytest.raises(OptionError, match="--voxels is 7, and the responses have 20"):
        FMRIReconstruction.suit(Options(**{**SMALL, "voxels": 7}), records)


def test_responses_of_two_people_or_two_regions_are_refused(tmp_path):
    def prepared(**columns):
        header = ",".join(["image", "response", *columns])
        rows = [f",run{k}.npy#0" + "".join(f",{v[k]}" for v in columns.values()) for k in (0, 1)]
        path = tmp_path / "rows.csv"
        path.write_text("\n".join([header, *rows]) + "\n")
        opened = open_store(FMRIReconstruction, Options(**SMALL), tmp_path / "cache")
        rule = FMRIReconstruction.intensity(Options(**SMALL))
        return opened.prepare(index_scans(path).sources, rule=rule).records

    for number, voxels in enumerate((5, 6)):
        np.save(tmp_path / f"run{number}.npy", np.random.default_rng(0).normal(size=(3, voxels)))
    with pytest.raises(DataError, match="responses differ in their voxels: 5 voxels in run0"):
        fmri.common_voxels(prepared())
    with pytest.raises(DataError, match=r"of 2 people \(ann, bob\)"):
        fmri.common_voxels(prepared(subject=("ann", "bob")))


def test_wrong_options_are_refused():
    for values, says in [
        ({"patch_size": (100, 112)}, "no multiple of 8"),
        ({"batch_size": 4, "unpaired": 4}, "leaves no pair"),
    ]:
        with pytest.raises(OptionError, match=says):
            Options(**values)
    assert Options(batch_size=4, unpaired=4, streams="none")
    with pytest.raises(OptionError, match="how many voxels"):
        FMRIReconstruction(Options(), build_encoder("caffenet", dims=2, in_channels=3))


def test_previews_show_pictures_and_responses(records):
    made = method(**EVERY).eval()
    with torch.no_grad():
        first = made.preview(batch_of(made, records, 0))
        second = made.preview_decoder(batch_of(made, records, 1))
    assert list(first) == ["picture", "response", "predicted"]
    assert list(second) == ["seen", "from the response", "from the predicted one"]
    for picture in (*first.values(), *second.values()):
        assert picture.ndim == 4
        assert 0 <= float(picture.min()) <= float(picture.max()) <= 1


def test_scores_of_silence_and_of_perfection(records):
    made = method().eval()
    batch = batch_of(made, records, 0)
    made.respond = lambda picture, dropout=0.0: torch.zeros_like(batch.response)
    scores = made.score(batch)
    assert float(scores["error"]) == pytest.approx(float(scores["silence"]))
    made.respond = lambda picture, dropout=0.0: batch.response
    perfect = made.score(batch)
    assert float(perfect["error"]) == 0
    assert float(perfect["correlation"]) == pytest.approx(1, abs=1e-5)


def test_a_whole_run_predicts_pictures(tmp_path, subject, store):
    """From the manifest to reconstructions; a picture without a response is named as left out."""
    options = {**SMALL, "voxels": None, "steps": 3}
    done = pretrain(
        "fmri-reconstruction",
        subject,
        tmp_path / "run",
        cache=store,
        quiet=True,
        accelerator="cpu",
        workers=0,
        **options,
        **EVERY,
    )
    assert any("--conv1" in line for line in done.loaded)
    assert {path.name.split("-")[1] for path in (tmp_path / "run/previews").glob("*.png")} == {
        "encoder",
        "decoder",
    }
    found = predict(tmp_path / "run", subject, tmp_path / "out", cache=store, quiet=True)
    rows = {row["file"]: row for row in found.rows}
    row = rows["pictures/test0001.png"]
    assert row["repeats"] == 4
    assert -1 <= row["correlation"] <= 1
    with Image.open(tmp_path / "out" / row["reconstruction"]) as drawn:
        assert drawn.size == (16, 16)
    assert len(rows) == 12 + 4 + 5
    assert len(found.quarantine) == 9
    assert "response" in found.quarantine[0].reason


def test_a_response_of_other_voxels_is_left_out(tmp_path, records):
    other = method(voxels=21)
    with pytest.raises(DataError, match="responses of 20 voxels, and the run learnt from 21"):
        other.product(records[-1] if records[-1].source.responses else records[0])


def test_an_epoch_takes_every_pair_once(records):
    made = method(streams="none", batch_size=3)
    phase = made.phases()[1]
    plan = make_plan(phase, items_of(phase, learnt(made, records)), seed=0, per_scan=1)
    assert plan.steps_per_epoch == 4
    taken = [index for step in range(4) for *_, index in plan.tickets(0, step)]
    assert sorted(taken) == list(range(12))


def test_what_is_carried_is_the_encoder():
    made = method()
    assert set(made.carries()) == {"encoder"}
    assert made.carries()["encoder"] is made.encoder
    assert isinstance(default_collate([Pair(*torch.zeros(3, 1))] * 2), Pair)
    assert isinstance(default_collate([Response(torch.zeros(1))] * 2), Response)


LEARN = {
    "encoder_lasso": (0.0, 0.0),
    "decoder_lasso": (0.0, 0.0),
    "max_shift": 1,
    "batch_size": 16,
    "unpaired": 4,
}


def learn(manifest: Path, folder: Path, **options) -> dict[str, float]:
    """Pretrain, and reconstruct the held-out pictures from their averaged responses."""
    pretrain(
        "fmri-reconstruction",
        manifest,
        folder / "run",
        cache=folder / "cache",
        quiet=True,
        accelerator="cpu",
        workers=0,
        score_every=10_000,
        **{**LEARN, **options},
    )
    made = load_method(folder / "run").method
    assert isinstance(made, FMRIReconstruction)
    sources = [each for each in index_scans(manifest).sources if each.split == "val"]
    opened = open_store(FMRIReconstruction, made.options, folder / "cache")
    held_out = opened.prepare(sources, rule=made.intensity(made.options)).records
    with torch.no_grad():
        responses = torch.stack([stimuli.responses_of(each).mean(0) for each in held_out])
        shown = torch.stack([stimuli.picture_of(each) for each in held_out])
        drawn, predicted = made.decoder(responses), made.respond(shown)
    likeness = pixel_correlations(drawn, shown)
    voxels = np.corrcoef(predicted.T.numpy(), responses.T.numpy())
    own = voxels.diagonal(len(voxels) // 2)
    return {
        "two-way identification": float(identification(drawn, shown)),
        "identification among all": float(
            (likeness.argmax(1) == torch.arange(len(drawn))).float().mean()
        ),
        "pixel correlation": float(likeness.diagonal().mean()),
        "median voxel correlation of the encoder": float(np.nanmedian(own)),
        "spread of predicted responses, of measured ones": float(predicted.std() / responses.std()),
    }


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_small_scale_proof_on_a_phantom(tmp_path, proof):
    """The encoder predicts, pictures come back, and loose pictures help; mixed pairs teach nothing."""
    sizes = {"pairs": 80, "held_out": 50, "loose": 600, "voxels": 150, "edge": 16}
    common = {
        "patch_size": (16, 16),
        "dropout": 0.25,
    }  # of the 128 features at this size; all 230 epochs
    whole = write_subject(tmp_path / "whole", **sizes)
    paired = learn(whole, tmp_path / "paired", streams="none", **common)
    helped = learn(whole, tmp_path / "helped", streams="pictures", **common)
    mixed = learn(
        write_subject(tmp_path / "mixed", mixed=True, **sizes),
        tmp_path / "broken",
        streams="pictures",
        **common,
    )
    proof(
        "fmri-reconstruction",
        data="phantom subject",
        **{f"{name}, pairs alone": value for name, value in paired.items()},
        **{f"{name}, with loose pictures": value for name, value in helped.items()},
        **{f"{name}, pairs mixed": value for name, value in mixed.items()},
    )
    assert helped["median voxel correlation of the encoder"] > 0.4
    assert helped["two-way identification"] > 0.8
    assert helped["pixel correlation"] > paired["pixel correlation"]
    assert helped["identification among all"] >= paired["identification among all"]
    assert mixed["two-way identification"] < 0.65
    assert mixed["median voxel correlation of the encoder"] < 0.2


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_small_scale_proof_on_real_trials(tmp_path, shared_data, proof):
    """Ten held-out digits from a real brain; chance is 0.5, and mixed pairs fall to it."""
    pytest.importorskip("sklearn")
    figures = {}
    for mixed in (False, True):
        folder = tmp_path / ("mixed" if mixed else "whole")
        manifest = write_digits(folder, shared_data / "fmri-digits", mixed=mixed)
        options = {"patch_size": (32, 32), "steps": 250, "epochs": 230, "streams": "pictures"}
        figures[mixed] = learn(manifest, folder, **options)
    proof(
        "fmri-reconstruction",
        data="fmri-digits",
        **figures[False],
        **{f"{name}, pairs mixed": value for name, value in figures[True].items()},
    )
    assert figures[False]["two-way identification"] > 0.65
    assert figures[True]["two-way identification"] < 0.65


def write_digits(folder: Path, real: Path, *, mixed: bool = False) -> Path:
    """Write the real trials, 70 digits with responses for training and 10 held out, and loose digits of scikit-learn."""
    from sklearn.datasets import load_digits

    trials = np.load(real / "fmri_digits.npz")
    (folder / "pictures").mkdir(parents=True)
    rows = []
    for split in ("train", "val"):
        np.save(folder / f"{split}.npy", trials[f"fmri_{split}"])
        count = len(trials[f"image_{split}"])
        order = np.arange(count)
        if mixed and split == "train":
            order = np.random.default_rng(0).permutation(count)
        for number, picture in enumerate(trials[f"image_{split}"]):
            name = f"pictures/{split}{number:02d}.png"
            Image.fromarray(picture).save(folder / name)
            rows.append((name, f"{split}.npy#{order[number]}", split))
    written = load_digits()
    for number, (levels, digit) in enumerate(zip(written.images, written.target, strict=True)):
        if digit in (6, 9):
            small = Image.fromarray((levels / 16 * 255).astype(np.uint8))
            picture = Image.new("L", (28, 28))
            picture.paste(small.resize((24, 24), Image.Resampling.BICUBIC), (2, 2))
            name = f"pictures/loose{number:04d}.png"
            picture.save(folder / name)
            rows.append((name, "", "train"))
    return write_manifest(folder / "digits.csv", rows)
