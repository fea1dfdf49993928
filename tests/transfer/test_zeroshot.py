"""Classes by prompts: what they are read from, how they score, and that an answer depends on the scan alone."""

from __future__ import annotations

import csv
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from cases import small_options
from shapes import SHAPES, write_shapes

from unlabeled.errors import OptionError
from unlabeled.losses.crossmodal import attention, global_scores
from unlabeled.methods.gloria import Gloria
from unlabeled.nn.encoders import build_encoder
from unlabeled.training.pretrain import pretrain
from unlabeled.transfer.finetune import finetune
from unlabeled.transfer.predict import predict
from unlabeled.transfer.prompts import FINDINGS, choose_prompts
from unlabeled.transfer.saved import load_task
from unlabeled.transfer.task import FinetuneOptions, Given
from unlabeled.transfer.zeroshot import ZeroShot

QUIET = {"accelerator": "cpu", "quiet": True}
PROMPTS = {
    "disc": ["disc", "large bright disc"],
    "square": ["a small square in left upper zone"],
    "cross": ["cross"],
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A short pretraining on pictures of shapes, and prompts for them."""
    folder = tmp_path_factory.mktemp("zeroshot")
    manifest = write_shapes(folder, 12)
    options = small_options("gloria", 2)
    pretrain("gloria", manifest, folder / "run", options=options, cache=folder / "cache", **QUIET)
    (folder / "prompts.json").write_text(json.dumps(PROMPTS))
    return folder


def build(fidelity: str = "clean") -> tuple[ZeroShot, Gloria]:
    """A task beside the method that it comes from, with the same weights."""
    torch.manual_seed(0)
    method = Gloria(
        small_options("gloria", 2, fidelity=fidelity), build_encoder("resenc-tiny", dims=2)
    )
    state = {f"encoder.{n}": t for n, t in method.encoder.state_dict().items()}
    state |= {f"space.{n}": t for n, t in method.space.state_dict().items()}
    encoder = build_encoder("resenc-tiny", dims=2)
    labelled = [SimpleNamespace(source=SimpleNamespace(label=name)) for name in ("edema", "normal")]
    given = Given(
        options=FinetuneOptions(patch_size=(32, 32)),
        encoder=encoder,
        records=labelled,
        train=labelled,
        tensors=state,
        metadata={"slug": "gloria"},
    )
    task = ZeroShot.build(given)
    task.encoder.load_state_dict(method.encoder.state_dict())
    return task.eval(), method.eval()


@pytest.mark.parametrize("fidelity", ["clean", "official"])
def test_scores_equal_the_formulas_prompt_by_prompt(fidelity):
    task, method = build(fidelity)
    image = torch.rand(2, 1, 32, 32)
    with torch.no_grad():
        raw = task.raw(image)
        seen = method.see(image)
        for column, name in enumerate(task.classes):
            best = torch.full((2,), -torch.inf)
            for prompt in FINDINGS[name]:
                tokens = method.tokeniser.encode(prompt, method.options.words)
                read = method.space.read(tokens.ids[None], tokens.words[None])
                used = int(tokens.used)
                if fidelity == "official":
                    words = read.words[0, 1 : len(prompt) + 1]
                    places = list(range(len(words)))
                else:
                    words = read.words[0, :used]
                    places = list(range(1, used))
                affinity = torch.einsum("nd,imd->inm", words, seen.regions)
                weights = attention(affinity, torch.ones(2, len(words), dtype=torch.bool))
                attended = torch.einsum("inm,imd->ind", weights, seen.regions)
                cosines = torch.cosine_similarity(words[None], attended, dim=-1)
                local = cosines[:, places].amax(1)
                whole = global_scores(seen.whole, read.whole)[:, 0]
                best = torch.maximum(best, (whole + local) / 2)
            assert torch.allclose(raw[:, column], best, atol=1e-5)


def test_what_is_saved_answers_alike_and_by_itself(place):
    """A scan's answer is the same alone and among others, before and after saving."""
    done = finetune(
        "zero-shot",
        place / "shapes.csv",
        place / "task",
        init=place / "run",
        prompts=str(place / "prompts.json"),
        cache=place / "cache",
        **QUIET,
    )
    assert done.result.steps == 0
    assert set(done.metrics["val"].measures) >= {"accuracy", "auc"}
    saved = load_task(place / "task").task
    assert isinstance(saved, ZeroShot)
    assert saved.sentences == {name: tuple(PROMPTS[name]) for name in sorted(SHAPES)}
    assert saved.prompts.usual.abs().sum() > 0
    everything = predict(
        place / "task", place / "shapes.csv", place / "all", cache=place / "cache", quiet=True
    )
    alone = predict(
        place / "task", place / "shapes0003.png", place / "one", cache=place / "cache", quiet=True
    )
    row = next(row for row in everything.rows if row["file"] == "shapes0003.png")
    assert {k: v for k, v in alone.rows[0].items() if k != "file"} == pytest.approx(
        {k: v for k, v in row.items() if k != "file"}
    )
    again = predict(
        place / "task", place / "shapes.csv", place / "again", cache=place / "cache", quiet=True
    )
    assert again.rows == everything.rows


def test_labels_are_not_looked_at(place):
    """Other labels, of the same names, give the same task."""
    with (place / "shapes.csv").open() as file:
        rows = list(csv.DictReader(file))
    names = sorted({row["label"] for row in rows})
    turned = dict(zip(names, names[1:] + names[:1], strict=True))
    with (place / "turned.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows({**row, "label": turned[row["label"]]} for row in rows)
    tasks = []
    for manifest in ("shapes.csv", "turned.csv"):
        out = place / f"from-{manifest}"
        finetune(
            "zero-shot",
            place / manifest,
            out,
            init=place / "run",
            prompts=str(place / "prompts.json"),
            cache=place / "cache",
            **QUIET,
        )
        tasks.append(load_task(out).task.state_dict())
    assert all(torch.equal(tasks[0][name], tasks[1][name]) for name in tasks[0])


def test_weights_that_read_no_text_are_refused(place, tmp_path):
    options = small_options("models-genesis", 2)
    images = write_shapes(tmp_path, 8)
    pretrain("models-genesis", images, tmp_path / "run", options=options, cache=tmp_path, **QUIET)
    for init, fact in (
        (tmp_path / "run", "models-genesis read no text"),
        ("scratch", "needs a pre"),
    ):
        with pytest.raises(OptionError, match=fact) as fault:
            finetune(
                "zero-shot",
                place / "shapes.csv",
                tmp_path / "task",
                init=init,
                prompts=str(place / "prompts.json"),
                cache=place / "cache",
                **QUIET,
            )
        assert "unlabeled pretrain gloria" in fault.value.remedy


def test_built_in_prompts_are_found_by_any_common_name():
    names = ["Pleural_Effusion", "No Finding", "COVID-19", "oedema"]
    chosen = choose_prompts(names)
    assert list(chosen) == names
    assert chosen["No Finding"] == FINDINGS["normal"]
    assert chosen["COVID-19"] == FINDINGS["covid 19"]
    assert all(len(each) >= 5 for each in FINDINGS.values())


@pytest.mark.parametrize(
    ("name", "text", "fact"),
    [
        ("a.toml", 'disc = ["disc"]', "no prompts for the class cross"),
        ("a.toml", 'disc = ["disc"]\ncross = [" . "]', "no prompts for the class cross"),
        ("a.toml", "disc = [", "is no TOML"),
        ("a.json", "{", "is no JSON"),
        ("a.toml", 'disc = "disc"', "does not hold a list"),
        ("a.json", "[]", "does not hold a list"),
        ("", "", "cannot be read"),
    ],
)
def test_wrong_prompts_are_named(tmp_path, name, text, fact):
    if name:
        (tmp_path / name).write_text(text)
    with pytest.raises(OptionError, match=fact) as fault:
        choose_prompts(["cross", "disc"], str(tmp_path / (name or "absent.toml")))
    assert fault.value.remedy


def test_classes_without_built_in_prompts_are_named():
    with pytest.raises(OptionError, match="no prompts for the classes ap, pa") as fault:
        choose_prompts(["ap", "edema", "pa"])
    assert "--prompts FILE.toml" in fault.value.remedy


def test_standardising_takes_off_what_a_class_scores_usually():
    task, _ = build()
    pictures = torch.rand(6, 1, 32, 32)
    task.framing = SimpleNamespace(centre=lambda record: record)
    with torch.no_grad():
        task.fit(list(pictures))
        answers = task(pictures)
    assert torch.allclose(answers.mean(0), torch.zeros(2), atol=1e-4)
    assert np.allclose(answers.std(0, correction=0), 1, atol=1e-3)
    with torch.no_grad():
        task.fit([pictures[0]])  # a single scan has no spread
    assert torch.equal(task.prompts.spread, torch.ones(2))
