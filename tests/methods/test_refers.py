"""Every must-have of REFERS, and that a small network learns which report belongs to which study, and to write it."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from chest_studies import draw_chest, write_studies
from radiographs import notes
from torch import nn
from torch.utils.data import default_collate

from unlabeled.cli.app import run as command_line
from unlabeled.data.reports import exchange_sides
from unlabeled.data.studies import Study, group_studies
from unlabeled.errors import DataError, OptionError, ScanError
from unlabeled.losses.crossmodal import global_scores, writing_errors
from unlabeled.methods.refers import Options, Refers, Sample
from unlabeled.nn.encoders import build_encoder
from unlabeled.nn.optimisers import Lookahead
from unlabeled.nn.report_decoder import ReportDecoder
from unlabeled.nn.tokens import WordPieces
from unlabeled.nn.view_fusion import ViewFusion, look
from unlabeled.nn.weights import load_encoder
from unlabeled.rng import generator
from unlabeled.training.pretrain import pretrain
from unlabeled.transfer.finetune import finetune
from unlabeled.transfer.predict import predict
from unlabeled.transfer.products import load_method

SMALL = {
    "encoder": "resenc-tiny",
    "patch_size": (32, 32),
    "image_size": 40,
    "words": 24,
    "text_width": 16,
    "text_layers": 2,
    "text_heads": 2,
    "decoder_width": 16,
    "decoder_heads": 2,
}
REPORTS = (
    "Small nodule in the left upper zone.",
    "Large mass in the right lower zone. Normal heart.",
    "The lungs are clear.",
)
BOTH = pytest.mark.parametrize("fidelity", ["clean", "official"])


@dataclass
class Held:
    """A record in memory: a picture in [0, 1] and its report."""

    report: str | None = REPORTS[0]
    array: np.ndarray = field(default_factory=lambda: np.random.default_rng(0).random((1, 50, 40)))
    study: str = "s"
    subject: str = "p"
    extras: dict = field(default_factory=dict)

    @property
    def source(self) -> SimpleNamespace:
        names = {"report": self.report, "study": self.study, "subject": self.subject}
        return SimpleNamespace(name="case.png", **names)

    @property
    def space(self) -> tuple[int, ...]:
        return self.array.shape[1:]

    @property
    def dims(self) -> int:
        return len(self.space)

    def patch(self, start, size) -> torch.Tensor:
        cut = tuple(slice(a, a + n) for a, n in zip(start, size, strict=True))
        return torch.from_numpy(self.array[(slice(None), *cut)].astype(np.float32))


def method(**options) -> Refers:
    torch.manual_seed(0)
    values = {**SMALL, **options}
    return Refers(Options(**values), build_encoder(values["encoder"], dims=2))


def study(report: str = REPORTS[0], pictures: int = 1, first: int = 0) -> Study:
    arrays = [np.random.default_rng(first + n).random((1, 50, 44)) for n in range(pictures)]
    return Study(tuple(Held(report, each) for each in arrays), report)


def batch_of(made: Refers, *reports: str) -> Sample:
    studies = [study(report, 2, 10 * number) for number, report in enumerate(reports)]
    return default_collate([made.views(each, generator(0, n)) for n, each in enumerate(studies)])


def arrays_of(golden: Path, name: str) -> dict[str, torch.Tensor]:
    with np.load(golden / "refers" / f"{name}.npz") as arrays:
        return {key: torch.from_numpy(arrays[key]) for key in arrays}


def decoder_of(told: dict[str, torch.Tensor]) -> ReportDecoder:
    """Make the published decoder with its weights."""
    made = ReportDecoder(
        24, 30, padding=0, positions=12, width=16, layers=1, heads=2, hidden=32
    ).eval()
    renamed = (
        ("visual_projection.", "project."),
        ("embedding.words.", "words."),
        ("embedding.positions.", "positions."),
        ("embedding.layer_norm.", "norm."),
        ("transformer.layers.", "layers."),
    )
    state = {}
    for name, value in told.items():
        ours = name.removeprefix("param.")
        if ours != name:
            for theirs, mine in renamed:
                ours = ours.replace(theirs, mine)
            state[ours] = value
    made.load_state_dict(state)
    return made


def test_must_have_1_three_views_of_one_study():
    made = method()
    assert made.options.views == 3
    single = made.views(study(), generator(0))
    assert single.images.shape == (3, 1, 32, 32)
    assert not any(torch.equal(single.images[a], single.images[b]) for a, b in ((0, 1), (1, 2)))
    flat = Study(
        tuple(Held(array=np.full((1, 40, 40), level / 4)) for level in (0, 1, 2)), REPORTS[0]
    )
    plain = method(p_jitter=0.0)
    seen = {
        tuple(plain.views(flat, generator(0, n)).images.mean((1, 2, 3)).tolist()) for n in range(60)
    }
    assert {level for views in seen for level in views} == {0.0, 0.25, 0.5}
    assert any(len(set(views)) == 1 for views in seen)  # with replacement
    assert any(len(set(views)) == 3 for views in seen)


def test_must_have_2_one_encoder_sees_all_views():
    made = method().eval()
    batch = batch_of(made, *REPORTS[:2])
    with torch.no_grad():
        whole = made.see(batch.images).study.unflatten(1, (3, -1))
        for view in range(3):
            alone = look(made.encoder, batch.images[:, view]).whole
            assert torch.allclose(whole[:, view], alone, atol=1e-5)
    encoders = [m for m in made.modules() if isinstance(m, type(made.encoder))]
    assert len(encoders) == 1


def test_must_have_3_class_token_is_added_to_every_patch_token():
    made = method(encoder="vit-tiny").eval()
    batch = batch_of(made, *REPORTS[:2])
    seen = {}
    made.fusion.register_forward_pre_hook(lambda module, given: seen.update(tokens=given[0]))
    with torch.no_grad():
        study_vector = made.see(batch.images).study
        maps, own = made.encoder.with_class(batch.images.flatten(0, 1))
    patches = maps[-1].flatten(2).transpose(1, 2)
    expected = (patches + own[:, None]).view(2, 3, 4, 192)
    assert torch.allclose(seen["tokens"], expected, atol=1e-5)
    assert study_vector.shape == (2, 3 * 192)
    assert torch.allclose(study_vector, own.reshape(2, -1), atol=1e-5)


def test_must_have_4_gates(golden):
    told = arrays_of(golden, "view_fusion")
    fusion = ViewFusion(3, 768)
    weights = torch.cat([told[f"fc{number}_w"] for number in (1, 2, 3)])
    fusion.gate.load_state_dict({"weight": weights, "bias": told["fc_b"]})
    tokens = torch.stack([told[f"x{number}"] for number in (1, 2, 3)], 1)
    with torch.no_grad():
        fused, gates = fusion(tokens)
    for number in range(3):
        assert torch.allclose(gates[:, number, :, None], told[f"gate{number + 1}"], atol=1e-5)
    assert torch.allclose(fused, told["fused_tokens"], atol=1e-5)
    made = method(encoder="vit-tiny", patch_size=(224, 224)).eval()
    with torch.no_grad():
        seen = made.see(torch.rand(1, 3, 1, 224, 224))
    assert seen.gates.shape == (1, 3, 196)
    assert 0 < float(seen.gates.min()) < float(seen.gates.max()) < 1
    assert seen.tokens.shape == (1, 3 * 196, 192)


def test_must_have_5_study_report_loss(golden):
    told = arrays_of(golden, "study_report_infonce")
    loss = method().matching(global_scores(told["v"], told["u"]))
    assert torch.allclose(loss, told["loss"], atol=1e-5)
    by_hand = 0.75 * told["image_to_text"].mean() + 0.25 * told["text_to_image"].mean()
    assert torch.allclose(loss, by_hand, atol=1e-5)
    study_vectors, reports = torch.tensor([[1.0, 0], [0, 1]]), torch.tensor([[1.0, 1], [0, 1]])
    told_by_hand = method().matching(global_scores(study_vectors, reports))
    assert float(told_by_hand) == pytest.approx(0.106495, abs=1e-6)


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({}, "both_directions"),
        ({"detach_text_to_image": True}, "official"),
        ({"fidelity": "official"}, "official"),
    ],
)
def test_must_have_6_gradients_with_and_without_text_to_image(golden, options, kind):
    told = arrays_of(golden, "study_report_infonce")
    v, u = told["v"].requires_grad_(), told["u"].requires_grad_()
    loss = method(**options).matching(global_scores(v, u))
    loss.backward()
    assert torch.allclose(loss, told["loss"], atol=1e-5)
    assert torch.allclose(v.grad, told[f"grad_v_{kind}"], atol=1e-5)
    assert torch.allclose(u.grad, told[f"grad_u_{kind}"], atol=1e-5)


def test_must_have_7_writing_loss(golden):
    told = arrays_of(golden, "caption_head")
    decoder, ids = decoder_of(told), told["tokens"]
    with torch.no_grad():
        logits = decoder(told["visual"], ids)
        costs, pieces = writing_errors(logits, ids)
        padded = torch.cat([ids, torch.zeros(2, 3, dtype=torch.long)], 1)
        longer = writing_errors(decoder(told["visual"], padded), padded)
    assert torch.allclose(logits[0], told["logits"][0], atol=1e-5)
    assert torch.allclose(logits[1, :4], told["logits"][1, :4], atol=1e-5)
    assert torch.allclose(costs.sum() / pieces.sum(), told["caption_loss"], atol=1e-5)
    assert pieces.tolist() == (told["lengths"] - 1).tolist()
    assert torch.allclose(longer[0], costs, atol=1e-5)
    assert torch.equal(longer[1], pieces)


def test_must_have_8_the_future_is_not_seen(golden):
    told = arrays_of(golden, "caption_head")
    decoder = decoder_of(told)
    changed = told["tokens"].clone()
    changed[0, 4:] = torch.tensor([11, 12])
    with torch.no_grad():
        before, after = (decoder(told["visual"], ids) for ids in (told["tokens"], changed))
        other = decoder(told["visual"].flip(0), told["tokens"])
    assert torch.equal(before[0, :4], after[0, :4])
    assert not torch.allclose(before[0, 4:], after[0, 4:])
    assert not torch.allclose(before[0], other[0])  # it does see the images


def test_must_have_9_output_weights_are_the_words():
    made = method()
    assert made.decoder.output.weight is made.decoder.words.weight
    before = made.decoder.words.weight.detach().clone()
    optimiser, _ = made.optimiser("main", [made])
    (update,) = made.step(batch_of(made, *REPORTS))
    update.loss.backward()
    optimiser.step()
    assert not torch.equal(before, made.decoder.words.weight)
    assert made.decoder.output.weight.data_ptr() == made.decoder.words.weight.data_ptr()


def test_must_have_10_groups_of_the_optimiser():
    made = method(encoder="vit-tiny")
    optimiser, _ = made.optimiser("main", [made])
    named = {id(each): name for name, each in made.named_parameters()}
    grouped = {named[id(each)] for group in optimiser.param_groups for each in group["params"]}
    assert grouped == set(named.values())
    norms = {
        id(each)
        for module in made.modules()
        if isinstance(module, nn.LayerNorm)
        for each in module.parameters()
    }
    for group in optimiser.param_groups:
        assert group["momentum"] == 0.9
        for each in group["params"]:
            name = named[id(each)]
            assert group["lr"] == pytest.approx(3e-4 if name.startswith("report.") else 3e-3)
            still = id(each) in norms or name.endswith("bias")
            assert group["weight_decay"] == (0.0 if still else 1e-4), name
    slower, _ = method(text_rate=1.0).optimiser("main", [method()])
    assert {group["lr"] for group in slower.param_groups} == {3e-3}


def test_must_have_11_schedule(golden):
    told = arrays_of(golden, "lr_warmup_cosine")
    _, schedule = method(warm_up=10_000 / 400_000).optimiser("main", [nn.Linear(1, 1)])
    ours = [schedule(step / 1000, 400.0) for step in told["step"].tolist()]
    assert np.abs(np.array(ours) - told["multiplier"].numpy()).max() < 1e-6
    assert Options().warm_up == 10_000 / 400_000
    assert schedule(0, 400) == 0
    assert schedule(10, 400) == 1
    assert schedule(205, 400) == pytest.approx(0.5)
    assert schedule(400, 400) == pytest.approx(0)


def test_must_have_12_lookahead(golden):
    told = arrays_of(golden, "lookahead_sgd")
    weight = nn.Parameter(told["trajectory"][0].clone())
    sgd = torch.optim.SGD([weight], lr=0.1, momentum=0.9, weight_decay=1e-4)
    ahead = Lookahead(sgd, every=int(told["k"]), pull=float(told["alpha"]))
    for expected in told["trajectory"][1:]:
        weight.grad = told["diag_hessian"] * weight.detach()
        ahead.step()
        assert torch.allclose(weight.detach(), expected, atol=1e-5)
    made, _ = method().optimiser("main", [nn.Linear(1, 1)])
    assert isinstance(made, Lookahead)
    assert (made.every, made.pull) == (5, 0.5)


def test_must_have_13_mirrored_together():
    """All views of a study or none; sides once; twice gives the study back."""
    ramp = np.tile(np.arange(50.0) / 50, (1, 50, 1))
    told = Study((Held(array=ramp), Held(array=ramp)), "Left lung clear, patient upright.")
    made = method(p_jitter=0.0)
    mirrored = 0
    for number in range(40):
        images, report = made.draw(told, generator(0, number))
        falls = [bool(view[0, 0, 0] > view[0, 0, -1]) for view in images]
        assert len(set(falls)) == 1
        expected = "Right lung clear, patient upright." if falls[0] else told.report
        assert report == expected
        mirrored += falls[0]
    assert 8 < mirrored < 32
    always = method(p_jitter=0.0, p_flip=1.0)
    never = method(p_jitter=0.0, p_flip=0.0)
    turned, other = (each.draw(told, generator(1)) for each in (always, never))
    assert torch.equal(turned[0].flip(-1), other[0])
    assert exchange_sides(turned[1]) == other[1] == told.report
    sides = "left lung clear, right effusion"
    assert exchange_sides(sides) == "right lung clear, left effusion"
    assert exchange_sides(exchange_sides(REPORTS[1])) == REPORTS[1]


def test_must_have_14_carried_transformer_is_the_trained_one(tmp_path):
    manifest = write_studies(tmp_path, 6)
    done = pretrain(
        "refers",
        manifest,
        tmp_path / "run",
        options=Options.from_names(**{**SMALL, "encoder": "vit-tiny", "batch_size": 2, "steps": 2}),
        cache=tmp_path / "cache",
        accelerator="cpu",
        quiet=True,
        workers=0,
    )
    kept, told = load_encoder(done.encoder)
    trained = load_method(tmp_path / "run").method.encoder.state_dict()
    assert set(kept.state_dict()) == set(trained)
    assert all(torch.equal(value, trained[name]) for name, value in kept.state_dict().items())
    assert told["slug"] == "refers"
    fresh = build_encoder("vit-tiny", dims=2).state_dict()
    assert any(not torch.equal(value, trained[name]) for name, value in fresh.items())


def test_must_have_15_reports_of_any_length_and_a_batch_of_two():
    made = method().eval()
    batch = batch_of(made, "clear", " ".join(["small nodule in the left zone"] * 6))
    (update,) = made.step(batch)
    assert update.loss.isfinite()
    assert update.clip == 10
    with torch.no_grad():
        seen = made.see(batch.images)
        costs, pieces = made.writing(seen.tokens, batch.ids)
        alone = made.writing(seen.tokens[:1], batch.ids[:1])
    assert pieces.tolist() == [2, 23]  # the word and the stop; as many as fit
    assert torch.allclose(alone[0], costs[:1], atol=1e-4)
    expected = costs.sum() / pieces.sum() + made.matching(
        global_scores(seen.study, made.report(batch.ids))
    )
    assert torch.allclose(update.loss, expected, atol=1e-4)


def test_costs_of_two_halves_are_those_of_the_whole():
    """What several devices add up is what one computes."""
    made = method().eval()
    batch = batch_of(made, *REPORTS)
    with torch.no_grad():
        seen = made.see(batch.images)
        whole = made.writing(seen.tokens, batch.ids)
        halves = [
            made.writing(seen.tokens[part], batch.ids[part]) for part in (slice(2), slice(2, 3))
        ]
    for place in range(2):
        assert torch.allclose(whole[place], torch.cat([half[place] for half in halves]), atol=1e-4)


def test_both_directions_share_all_but_the_layers():
    made = method(both_directions=True)
    (update,) = made.step(batch_of(made, *REPORTS))
    update.loss.backward()
    assert all(each.grad is not None for each in made.parameters())
    one = sum(each.numel() for each in method().decoder.parameters())
    layers = sum(each.numel() for each in made.decoder.layers.parameters())
    assert sum(each.numel() for each in made.decoder.parameters()) == one + layers


@BOTH
def test_quirk_mirrored_views(fidelity):
    ramp = np.tile(np.arange(50.0) / 50, (1, 50, 1))
    told = Study((Held(array=ramp),), "left lung, upright")
    made = method(fidelity=fidelity, p_jitter=0.0)
    differ = 0
    for number in range(30):
        images, report = made.draw(told, generator(0, number))
        falls = [bool(view[0, 0, 0] > view[0, 0, -1]) for view in images]
        differ += len(set(falls)) > 1
        assert report.startswith("right") == falls[0]
        assert ("upleft" in report) == (falls[0] and fidelity == "official")
    assert (differ > 10) == (fidelity == "official")


@BOTH
def test_quirk_unknown_words(fidelity):
    made = method(fidelity=fidelity).eval()
    made.tokeniser = WordPieces(["[PAD]", "[CLS]", "[SEP]", "[UNK]", "small", "edema"])
    ids = made.tokeniser.encode("small grumbling edema", 24).ids[None]
    with torch.no_grad():
        _, pieces = made.writing(made.see(torch.rand(1, 3, 1, 32, 32)).tokens, ids)
    assert int(pieces) == (3 if fidelity == "official" else 4)


def test_dropout_of_the_published_transformer():
    made = method(encoder="vit-tiny", p_dropout=0.5)
    image = torch.rand(1, 1, 32, 32)
    with torch.no_grad():
        first, second = (made.encoder(image)[-1] for _ in range(2))
        made.eval()
        third, fourth = (made.encoder(image)[-1] for _ in range(2))
    assert not torch.allclose(first, second)
    assert torch.equal(third, fourth)


def test_any_encoder_and_number_of_views_serves():
    for name, views in (("unet", 1), ("resnet18", 2), ("vit-tiny", 4)):
        made = method(encoder=name, patch_size=(64, 64), views=views)
        (update,) = made.step(batch_of(made, *REPORTS[:2]))
        update.loss.backward()
        assert made.fusion.gate.weight.shape[0] == views
        assert made.fusion.gate.weight.grad.abs().sum() > 0


def test_held_out_studies_are_seen_whole():
    made = method().eval()
    told = study(pictures=2)
    first, again = (made.views(told, generator(0, n)) for n in range(2))
    assert torch.equal(first.images, again.images)
    assert torch.equal(first.images[0], first.images[2])  # two radiographs, in turn
    assert not torch.equal(first.images[0], first.images[1])


def test_studies_are_pictures_with_one_report():
    shown = [
        Held("a", study="1"),
        Held("a", study="1"),
        Held("b", study="1"),
        Held("a", study="2"),
        Held("a", subject="q", study="1"),
    ]
    assert [len(each.records) for each in group_studies(shown)] == [2, 1, 1, 1]


@pytest.mark.parametrize(
    ("options", "fact", "remedy"),
    [
        ({"decoder_heads": 3}, "16 numbers of the decoder", "multiple of 3"),
        ({"text_heads": 3}, "16 numbers cannot be shared by 3", "multiple of 3"),
        ({"words": 2}, "--words is 2", "at least 3"),
        ({"patch_size": (32,)}, "has 1 edges", "--patch-size 32 32"),
        ({"text": "nowhere"}, "--text nowhere is no folder", "folder of a BERT model"),
    ],
)
def test_wrong_options_are_named(options, fact, remedy):
    with pytest.raises(OptionError, match=fact) as fault:
        method(**options)
    assert remedy in fault.value.remedy


def test_wrong_data_is_refused(tmp_path, capsys):
    """No reports, or none with a word: refused before training, in words; a volume by itself."""
    manifest = write_studies(tmp_path, 4)
    out = str(tmp_path / "run")
    with manifest.open() as file:
        rows = list(csv.DictReader(file))
    for report, fact in (("", "have no report"), ("...", "has a word")):
        with manifest.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows({**row, "report": report} for row in rows)
        asked = ["pretrain", "refers", str(manifest), "--out", out, "--quiet"]
        assert command_line([*asked, "--cache", str(tmp_path / "cache")]) == 2
        assert fact in " ".join(capsys.readouterr().err.split())
    with pytest.raises(ScanError, match="is a volume"):
        Refers.require(Held(array=np.zeros((1, 8, 8, 8))), Options())
    with pytest.raises(DataError, match="none of 1 reports has a word"):
        Refers.suit(Options(), [Held("?")])


def test_score_knows_whether_the_decoder_looks():
    made = method().eval()
    batch = batch_of(made, *REPORTS)
    with torch.no_grad():
        made.decoder.project.weight.mul_(50)
        scores = made.score(batch)
        made.decoder.project.weight.zero_()
        blind = made.score(batch)
    assert float(scores["writing_others"]) != float(scores["writing"])
    assert float(blind["writing_others"]) == pytest.approx(float(blind["writing"]), abs=1e-5)
    assert float(scores["found_chance"]) == pytest.approx(1 / 3)
    assert float(scores["writing"]) == pytest.approx(math.log(made.tokeniser.size), rel=0.1)
    with torch.no_grad():
        twice = made.score(batch_of(made, REPORTS[0], REPORTS[1], REPORTS[0]))
    assert float(twice["found_chance"]) == pytest.approx(5 / 9)
    assert float(twice["duplicates"]) == pytest.approx(2 / 3)


def test_preview_shows_views_gates_and_words():
    made = method().eval()
    with torch.no_grad():
        shown = made.preview(batch_of(made, *REPORTS[:2]))
    assert list(shown) == ["view 1", "view 2", "view 3", "report", "written"]
    assert all(each.shape == (2, 3, 160, 146) for each in shown.values())
    assert all(each.min() >= 0 and each.max() <= 1 for each in shown.values())


def test_words_that_are_not_general_are_not_shown():
    made = method()
    ids = made.tokeniser.encode("Small nodule of Mr Smithson", 24).ids
    assert made.spell(ids) == "small nodule of ..."
    pieces = WordPieces(["[PAD]", "[CLS]", "[SEP]", "[UNK]", "small", "nod", "##ule", "smith"])
    made.tokeniser = pieces
    assert made.spell(pieces.encode("small nodule smith x small small", 12).ids) == (
        "small nodule ... small small"
    )


STUDIES, STEPS = 1100, 400
LEARNS = {
    "encoder": "resenc-tiny",
    "patch_size": (32, 32),
    "image_size": 64,
    "views": 2,
    "least_area": 0.8,
    "narrowest": 0.9,
    "words": 32,
    "text_width": 64,
    "text_layers": 2,
    "text_heads": 4,
    "decoder_width": 96,
    "decoder_heads": 4,
    "p_dropout": 0.0,
    "optimiser": "adamw",
    "lr": 2e-3,
    "text_rate": 1.0,
    "warm_up": 0.1,
    "batch_size": 32,
}


def learn(folder: Path, manifest: Path, steps: int, **options):
    """Pretrain from a manifest; give the last scores and the method with its weights."""
    done = pretrain(
        "refers",
        manifest,
        folder,
        cache=manifest.parent / "cache",
        accelerator="cpu",
        quiet=True,
        score_every=10_000,
        held_out_batches=3,
        workers=0,
        **{**LEARNS, "steps": steps, **options},
    )
    return done.result.score, load_method(folder).method


def names_sides(made: Refers, first: int, count: int) -> tuple[float, float]:
    """Share of fresh chests with shadows on one side whose written report names that side alone; AUC of that side's probe."""
    right, states, sides = [], [], []
    with torch.no_grad():
        for seed in range(first, first + count):
            chest = draw_chest(seed)
            shown = {each.side for each in chest.shadows}
            if len(shown) != 1:
                continue
            levels = np.stack([chest.view(number) for number in range(2)]).astype(np.float32)
            low, high = np.percentile(levels, [0.5, 99.5])
            levels = (levels.clip(low, high) - low) / (high - low)
            records = tuple(Held(chest.report, view[None]) for view in levels)
            seen = made.see(made.draw.whole(Study(records, chest.report))[0][None])
            (report,) = made.write(seen.tokens)
            (side,) = shown
            right.append({"left", "right"} & set(report.split()) == {("left", "right")[side]})
            states.append(seen.study[0].numpy())
            sides.append(side)
    return float(np.mean(right)), linear_auc(np.array(states), np.array(sides))


def linear_auc(states: np.ndarray, sides: np.ndarray) -> float:
    """Fit ridge regression to the first half, and measure the area under the curve on the second."""
    half = len(states) // 2
    centre, scale = states[:half].mean(0), states[:half].std(0) + 1e-6
    states = (states - centre) / scale
    told, asked = states[:half], states[half:]
    pulled = told @ told.T + len(told) * np.eye(half)
    said = asked @ told.T @ np.linalg.solve(pulled, 2.0 * sides[:half] - 1)
    ones, zeros = said[sides[half:] == 1], said[sides[half:] == 0]
    return float(np.mean(ones[:, None] > zeros[None]))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_small_scale_proof_on_phantom_chests(tmp_path: Path, proof):
    """Studies find their reports, and what is written names the side that is shown.

    The linear probe of the side is recorded beside that of fresh weights, which know sides too: it is no bar.
    """
    manifest = write_studies(tmp_path, STUDIES, held_out=100)
    scores, made = learn(tmp_path / "run", manifest, STEPS)
    named, auc = names_sides(made, 5000, 200)
    _, auc_fresh = names_sides(method(**LEARNS).eval(), 5000, 200)
    look_at = scores["writing_others"] - scores["writing"]
    proof(
        "refers",
        data="phantom chests",
        found=scores["found"],
        found_chance=scores["found_chance"],
        writing=scores["writing"],
        writing_others=scores["writing_others"],
        sides_named=named,
        sides_named_chance=0.5,
        side_auc=auc,
        side_auc_untrained=auc_fresh,
        gate_spread=scores["gate_spread"],
    )
    assert scores["found"] > 0.5
    assert look_at > 0.3
    assert named > 0.85


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_small_scale_proof_fails_with_reports_of_other_studies(tmp_path: Path, proof):
    """With the reports of other studies nothing is found, and the decoder does not look."""
    manifest = write_studies(tmp_path, STUDIES, held_out=100)
    with manifest.open() as file:
        rows = list(csv.DictReader(file))
    with manifest.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        kept = [row for row in rows if row["split"] == "train"]
        rest = rows[len(kept) :]
        others = kept[14:] + kept[:14] + rest[14:] + rest[:14]
        writer.writerows(
            {**row, "report": other["report"]} for row, other in zip(rows, others, strict=True)
        )
    scores, made = learn(tmp_path / "run", manifest, STEPS)
    named, _ = names_sides(made, 5000, 200)
    proof(
        "refers",
        data="phantom chests, signal broken",
        found_wrong_reports=scores["found"],
        found_wrong_reports_chance=scores["found_chance"],
        writing_gain_wrong_reports=scores["writing_others"] - scores["writing"],
        sides_named_wrong_reports=named,
    )
    assert scores["found"] < 0.25
    assert scores["writing_others"] - scores["writing"] < 0.15
    assert named < 0.7


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_small_scale_proof_on_real_radiographs(shared_data: Path, tmp_path: Path, proof):
    """Some 20 studies are too few to learn from: their own loss falls, and what others give is recorded as it is."""
    manifest = notes(shared_data, tmp_path)
    options = {"image_size": 96, "patch_size": (80, 80), "words": 48, "batch_size": 12}
    scores, _ = learn(
        tmp_path / "run", manifest, 300, samples_per_scan=4, least_area=0.4, views=3, **options
    )
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    told = [row for row in log if "loss" in row]
    proof(
        "refers",
        data="chest-xray-notes-masks",
        training_matching=told[-1]["matching"],
        training_matching_chance=math.log(12),
        training_writing=told[-1]["writing"],
        training_writing_first=told[0]["writing"],
        found=scores["found"],
        found_chance=scores["found_chance"],
        writing=scores["writing"],
        writing_others=scores["writing_others"],
    )
    assert told[-1]["matching"] < 0.8 * math.log(12)
    assert told[-1]["writing"] < 0.7 * told[0]["writing"]


def test_what_it_carries_classifies_and_what_it_writes_is_a_table(tmp_path):
    manifest = write_studies(tmp_path, 6)
    common = {"cache": tmp_path / "cache", "quiet": True}
    options = Options.from_names(**{**SMALL, "batch_size": 2, "steps": 2})
    pretrain("refers", manifest, tmp_path / "run", options=options, workers=0, **common)
    with manifest.open() as file:
        rows = list(csv.DictReader(file))
    labelled = tmp_path / "labelled.csv"
    with labelled.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["image", "subject", "label"])
        writer.writeheader()
        for number, row in enumerate(rows):
            writer.writerow(
                {"image": row["image"], "subject": row["subject"], "label": "ab"[number // 2 % 2]}
            )
    finetune(
        "classify", labelled, tmp_path / "task", init=tmp_path / "run", steps=2, workers=0, **common
    )
    said = predict(tmp_path / "run", manifest, tmp_path / "said", **common).rows
    assert len(said) == len(rows)
    assert all(isinstance(row["report"], str) for row in said)
