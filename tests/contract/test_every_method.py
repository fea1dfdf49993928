"""What every method must keep, none excepted: STYLE section 7."""

from __future__ import annotations

import math
from typing import get_args, get_type_hints

import pytest
import torch
from cases import ORDER_MATTERS, every_method_and_dims, small_options
from safetensors.torch import load_file
from torch.utils.data import default_collate

from unlabeled.cli.app import run as command_line
from unlabeled.data.index import index_scans
from unlabeled.errors import UnlabeledError
from unlabeled.methods._base import parameters
from unlabeled.methods._registry import find, slugs
from unlabeled.nn.weights import load_encoder
from unlabeled.options import flag
from unlabeled.rng import generator
from unlabeled.training.loader import items_of
from unlabeled.training.pretrain import build_method, open_store, pretrain

CASES = [pytest.param(slug, dims, id=f"{slug}-{dims}d") for slug, dims in every_method_and_dims()]
QUICK = {
    "accelerator": "cpu",
    "quiet": True,
    "log_every": 1,
    "score_every": 1,
    "held_out_batches": 1,
}


@pytest.fixture
def case(request, scans_of, store):
    """A method with its networks, and records to learn from."""
    slug, dims = request.param
    kind = find(slug)
    options = small_options(slug, dims)
    index = index_scans(scans_of(slug, dims))
    records = (
        open_store(kind, options, store)
        .prepare(index.sources, rule=kind.intensity(options))
        .records
    )
    return build_method(kind, options, dims=dims, channels=records[0].channels), records


both = pytest.mark.parametrize(
    "case", [pytest.param(each.values, id=each.id) for each in CASES], indirect=True
)


def batches(method, records, count=None):
    """Make one batch a phase, as the loader would."""
    for phase in method.phases():
        made = {}
        listed = items_of(phase, records)
        for name, feed in phase.feeds.items():
            items = listed[name]
            samples = [
                feed.views(items[place % len(items)], generator(0, "contract", name, place))
                for place in range(count or feed.batch_size)
            ]
            made[name] = default_collate(samples)
        yield phase, made if len(made) > 1 else next(iter(made.values()))


@both
def test_losses_are_finite_and_every_trained_weight_gets_a_gradient_and_no_other_moves(case):
    method, records = case
    for phase, batch in batches(method, records):
        optimisers = {
            name: torch.optim.SGD(parameters(modules), lr=1e-3)
            for name, modules in phase.trains.items()
        }
        trained = {id(p) for o in optimisers.values() for g in o.param_groups for p in g["params"]}
        before = {name: p.detach().clone() for name, p in method.named_parameters()}
        reached: set[int] = set()
        for update in phase.step(batch):
            assert update.loss.ndim == 0
            assert math.isfinite(float(update.loss.detach()))
            optimiser = optimisers[update.of]
            optimiser.zero_grad()
            update.loss.backward()
            reached |= {
                id(p) for g in optimiser.param_groups for p in g["params"] if p.grad is not None
            }
            optimiser.step()
        assert reached == trained, "a trained parameter got no gradient"
        teachers = getattr(method, "teacher", None)
        follow = {id(p) for p in teachers.parameters()} if teachers is not None else set()
        for name, p in method.named_parameters():
            if id(p) not in trained | follow:
                assert torch.equal(before[name], p), f"{name} moved, but nothing trains it"


@both
def test_views_are_pure_and_of_the_promised_shape(case):
    method, records = case
    for phase in method.phases():
        listed = items_of(phase, records)
        for name, feed in phase.feeds.items():
            item = listed[name][0]
            first = feed.views(item, generator(0, name))
            again = feed.views(item, generator(0, name))
            other = feed.views(item, generator(1, name))
            pairs = zip(first, again, strict=True)
            assert all(torch.equal(a, b) for a, b in pairs if isinstance(a, torch.Tensor))
            changed = zip(first, other, strict=True)
            assert any(not torch.equal(a, b) for a, b in changed if isinstance(a, torch.Tensor))
            for part in first:
                if isinstance(part, torch.Tensor) and part.is_floating_point():
                    assert part.isfinite().all()


@both
def test_a_batch_of_one_can_be_scored_and_shown(case):
    method, records = case
    method.eval()
    for phase, batch in batches(method, records, count=1):
        with torch.no_grad():
            scores = (phase.score or method.score)(batch)
            pictures = (phase.preview or method.preview)(batch)
        assert all(torch.isfinite(torch.as_tensor(value)).all() for value in scores.values())
        monitor = phase.monitor or method.monitor
        assert monitor.name in scores
        if monitor.chance is not None:
            assert monitor.chance in scores
        for caption, picture in pictures.items():
            assert caption
            assert picture.ndim == method.encoder.dims + 2


@both
def test_permuting_the_batch_keeps_the_loss(case):
    method, records = case
    slug = type(method).__module__.rpartition(".")[2].replace("_", "-")
    if slug in ORDER_MATTERS:
        pytest.skip(ORDER_MATTERS[slug])
    method.eval()
    for phase, batch in batches(method, records, count=4):
        if isinstance(batch, dict):
            continue  # streams of their own have no common order
        turned = type(batch)(
            *(part.flip(0) if isinstance(part, torch.Tensor) else part for part in batch)
        )
        losses = []
        for each in (batch, turned):
            torch.manual_seed(0)
            losses.append(float(next(iter(phase.step(each))).loss.detach()))
        assert losses[0] == pytest.approx(losses[1], rel=1e-3, abs=1e-5)


def read(folder):
    return load_file(folder / "encoder.safetensors")


@pytest.mark.parametrize(("slug", "dims"), CASES)
def test_pretraining_is_reproducible_and_resumes_bit_for_bit(tmp_path, scans_of, store, slug, dims):
    common = {"cache": store, **QUICK}
    options = small_options(slug, dims, steps=4)
    whole = pretrain(slug, scans_of(slug, dims), tmp_path / "whole", options=options, **common)
    pretrain(slug, scans_of(slug, dims), tmp_path / "again", options=options, **common)
    first, second = read(tmp_path / "whole"), read(tmp_path / "again")
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert whole.result.steps == 4

    calls = 0
    kind = find(slug)
    original, at_once = kind.views, getattr(kind, "together", None)

    class Killed(Exception):  # noqa: N818
        """Stands for kill -9."""

    def count(samples):
        nonlocal calls
        calls += samples
        if calls > 3 * options.batch_size:
            raise Killed

    def views(self, record, rng):
        count(self.training)  # held-out samples are made in evaluation
        return original(self, record, rng)

    def together(self, records, rngs):
        count(len(records) * self.training)
        return at_once(self, records, rngs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kind, "views", views)
        if at_once is not None:
            patch.setattr(kind, "together", together)
        cut = {**common, "checkpoint_steps": 1}
        with pytest.raises(Killed):
            pretrain(slug, scans_of(slug, dims), tmp_path / "cut", options=options, **cut)
    pretrain(slug, scans_of(slug, dims), tmp_path / "cut", options=options, resume=True, **common)
    resumed = read(tmp_path / "cut")
    assert all(torch.equal(first[name], resumed[name]) for name in first)


@pytest.mark.parametrize(("slug", "dims"), CASES)
def test_the_run_folder_is_whole_and_the_encoder_is_the_one_trained(
    tmp_path, scans_of, store, slug, dims
):
    options = small_options(slug, dims)
    done = pretrain(
        slug, scans_of(slug, dims), tmp_path / "run", options=options, cache=store, **QUICK
    )
    files = {path.name for path in (tmp_path / "run").iterdir()}
    expected = {"options.toml", "run.json", "log.jsonl", "previews", "checkpoints"}
    assert expected | {"encoder.safetensors", "quarantine.csv"} <= files
    assert list((tmp_path / "run" / "previews").glob("*.png"))
    encoder, metadata = load_encoder(done.encoder)
    assert metadata["slug"] == slug
    assert metadata["dims"] == dims == encoder.dims
    last = load_file(tmp_path / "run" / "checkpoints" / "last.safetensors")
    best = tmp_path / "run" / "checkpoints" / "best.safetensors"
    if find(slug).keeps == "best" and best.exists():
        last = load_file(best)
    for name, tensor in encoder.state_dict().items():
        kept = last.get(f"method.encoder.{name}")
        if kept is not None:
            assert torch.equal(tensor, kept)


@pytest.mark.parametrize("slug", slugs())
def test_help_lists_every_option(capsys, slug):
    assert command_line(["pretrain", slug, "--help"]) == 0
    told = " ".join(capsys.readouterr().out.split())
    for name in find(slug).options_class.names():
        assert flag(name) in told, name


@pytest.mark.parametrize("slug", slugs())
def test_a_wrong_option_is_the_persons_mistake(capsys, tmp_path, slug):
    out = str(tmp_path / "run")
    assert command_line(["pretrain", slug, str(tmp_path), "--out", out, "--batch-size", "0"]) == 2
    assert "--batch-size" in capsys.readouterr().err
    assert command_line(["pretrain", slug, str(tmp_path), "--out", out, "--bach-size", "2"]) == 2


@pytest.mark.parametrize("slug", slugs())
def test_an_empty_folder_is_refused_before_training(tmp_path, slug):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UnlabeledError):
        pretrain(slug, tmp_path / "empty", tmp_path / "run", cache=tmp_path / "cache")
    assert not (tmp_path / "run" / "encoder.safetensors").exists()


@pytest.mark.parametrize("slug", slugs())
def test_every_default_tells_its_source(slug):
    """The docstring of a method's options documents each of its own options."""
    from unlabeled.cli.options import describe

    told = describe(find(slug).options_class)
    for name in find(slug).options_class.names():
        assert told.get(name), f"--{name} of {slug} has no help"


@pytest.mark.parametrize("slug", slugs())
def test_there_is_a_choice_of_fidelity_exactly_where_there_are_quirks(slug):
    from unlabeled.methods._outline import outline

    method, told = find(slug), outline(slug)
    hints = get_type_hints(method.options_class)
    choices = get_args(hints["fidelity"]) if "fidelity" in hints else ("clean",)
    assert told.fidelity == choices
    assert told.quirks == tuple(method.quirks)
    assert bool(method.quirks) == ("fidelity" in hints)


def test_every_method_has_a_card_a_file_and_a_page():
    from pathlib import Path

    from unlabeled.catalogue import cards

    root = Path(__file__).resolve().parents[2]
    readme = (root / "README.md").read_text()
    for slug in slugs():
        assert slug in cards()
        assert f"(docs/methods/{slug}.md)" in readme
        assert (root / "docs" / "methods" / f"{slug}.md").is_file()
        assert (root / "tests" / "methods" / f"test_{slug.replace('-', '_')}.py").is_file()
