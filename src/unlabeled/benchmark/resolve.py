"""From what was asked for - words, options, a plan file - to a plan: the same network, patch and budget for all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from unlabeled.benchmark import fitting
from unlabeled.benchmark.agreement import name_scans
from unlabeled.benchmark.asked import CELL_OWN, Asked, sort_options
from unlabeled.benchmark.plan import PARTS, SCRATCH, Plan, show_fraction
from unlabeled.benchmark.plan_file import read_told
from unlabeled.data.index import index_scans
from unlabeled.errors import OptionError, UnlabeledError
from unlabeled.methods._base import Method
from unlabeled.methods._registry import slugs
from unlabeled.nn.encoders import require_encoder
from unlabeled.training.given import complete
from unlabeled.training.settings import Settings
from unlabeled.transfer.cohort import usable_sources
from unlabeled.transfer.task import FinetuneOptions, TaskName

ALL = "all"
NETWORK = "resenc-s"  # for methods whose own networks differ


@dataclass(frozen=True, kw_only=True)
class Resolved:
    """A plan that can be run.

    Parameters
    ----------
    plan
        The plan.
    notes
        What was chosen and what a person should know, a sentence each.
    left_out
        With ``all``: reasons by method that does not fit.
    scans, labelled
        Names of the data, for `agree`.
    """

    plan: Plan
    notes: tuple[str, ...]
    left_out: Mapping[str, str]
    scans: str
    labelled: str


def resolve(asked: Asked, cache: Path | None = None) -> Resolved:
    """Complete what was asked for, and refuse what cannot be run.

    Raises
    ------
    UnlabeledError
        Something that the person can mend; nothing has run.
    """
    told = {} if asked.config is None else read_told(asked.config)
    network, pretraining, finetuning, settings = sort_options(asked.values)
    finetuning = {**told.get("finetuning", {}), **finetuning}
    settings = {**told.get("settings", {}), **settings}
    if settings.get("devices", 1) != 1 or settings.get("nodes", 1) != 1:
        raise OptionError(
            "the plan asks for several devices a run",
            "Leave devices and nodes out below [settings]; --jobs or --engine ray use several devices for several runs.",
        )
    complete(Settings, None, None, settings)
    scans = _need(asked.scans or told.get("scans"), "SCANS", "a folder of unlabelled scans")
    labelled = _need(asked.labelled or told.get("labelled"), "LABELLED", "labelled scans")
    part = asked.part or told.get("part") or "test"
    if part not in PARTS:
        raise OptionError(f"--part is {part!r}", f"Give one of {', '.join(PARTS)}.")
    fractions = _fractions(asked.fractions or told.get("fractions") or (1.0,))
    seeds = asked.seeds if asked.seeds is not None else told.get("seeds", 3)
    if not isinstance(seeds, int) or seeds < 1:
        raise OptionError(f"--seeds is {seeds}, outside its range", "Give --seeds at least 1.")
    kinds, sections = _methods(asked.methods, told.get("methods", {}))

    index, labels = (
        index_scans(scans, cache=cache),
        index_scans(labelled, labelled=True, cache=cache),
    )
    notes = []
    named = asked.task or told.get("task")
    if named is not None and named not in get_args(TaskName):
        raise OptionError(
            f"unknown task {named!r}", f"Give one of {', '.join(get_args(TaskName))}."
        )
    task: TaskName = fitting.guess_task(labels) if named is None else named
    if named is None:
        notes.append(
            f"task: {task}, as the labelled scans have {_COLUMNS[task]} (--task says another)"
        )
    usable, _ = usable_sources(task, labels)
    seen = fitting.look_at_some(index)
    dims = fitting.choose_dims(_dims(network, sections), seen, kinds)
    fitting.require_axes(dims, seen, index.root)
    fitting.require_axes(dims, fitting.look_at_some(labels), labels.root)
    encoder, note = _encoder(network.pop("encoder", None), kinds, sections)
    notes += note
    options = {}
    left_out: dict[str, str] = {}
    refused: list[UnlabeledError] = []
    for slug, kind in kinds.items():
        common = {**network, **pretraining}
        own = {**common, **sections[slug], "encoder": encoder, "dims": dims}
        try:
            made, _ = complete(kind.options_class, None, None, own)
            fitting.require_fit(slug, kind, made, dims=dims, seen=seen, index=index)
        except UnlabeledError as fault:
            left_out[slug] = fault.fact
            refused.append(fault)
        else:
            options[slug] = own
    everything = asked.methods is not None and tuple(asked.methods) == (ALL,)
    if refused and not (everything and options):
        facts = "; ".join(dict.fromkeys(fault.fact for fault in refused))
        remedies = list(dict.fromkeys(f.remedy for f in refused if f.remedy))
        raise OptionError(facts, "\n".join(remedies))
    finetuning = _finetuning(finetuning, network, encoder, dims, options, kinds)
    made_fine, _ = complete(FinetuneOptions, None, None, finetuning)
    trained, measured, more = fitting.require_subjects(labels, usable, fractions, part, made_fine)
    patch = " ".join(map(str, finetuning["patch_size"]))
    notes.append(
        f"network: {encoder} in {dims}D; fine-tuning patch {patch} [voxel]; the same for all"
    )
    shown = ", ".join(map(show_fraction, fractions))
    notes.append(
        f"labels: {shown} of {_subjects(trained, 'training')}; measured on {_subjects(measured, part)}"
        + (
            " (choose options with --part val)"
            if part == "test"
            else " (--part test measures, once)"
        )
    )
    if seeds == 1:
        notes.append(
            "one seed: figures speak of other subjects, not of other trainings; a gain may be luck (--seeds 3 or more)"
        )
    plan = Plan(
        scans=Path(scans).expanduser().absolute(),
        labelled=Path(labelled).expanduser().absolute(),
        task=task,
        methods=options,
        fractions=fractions,
        seeds=seeds,
        finetuning=finetuning,
        part=part,
        settings=settings,
        title=asked.title or told.get("title") or "",
    )
    return Resolved(
        plan=plan,
        notes=(*notes, *more),
        left_out=left_out,
        scans=name_scans(index.sources),
        labelled=name_scans(labels.sources),
    )


_COLUMNS: Mapping[str, str] = {"segment": "masks", "classify": "labels", "regress": "targets"}


def _need(value: Any, name: str, what: str) -> Path:
    if value is None:
        raise OptionError(
            f"`unlabeled compare` needs {name}: {what}", "Type it, or name it in the plan file."
        )
    return Path(value)


def _fractions(given: Sequence[float]) -> tuple[float, ...]:
    """Take each label fraction once, in the order given."""
    wrong = [
        value for value in given if isinstance(value, bool) or not isinstance(value, int | float)
    ]
    if wrong:
        raise OptionError(
            f"--label-fractions holds {wrong[0]!r}",
            "Give shares up to 1, or whole numbers of subjects above 1: --label-fractions 0.05,0.1,1",
        )
    return tuple(dict.fromkeys(float(value) for value in given))


def _methods(
    asked: Sequence[str] | Mapping[str, Mapping[str, Any]] | None,
    told: Mapping[str, Mapping[str, Any]],
) -> tuple[dict[str, type[Method]], dict[str, dict[str, Any]]]:
    """Choose the methods, and give what is said of each alone."""
    own = asked if isinstance(asked, Mapping) else {}
    names = list(asked or told)
    if names == [ALL]:
        names = list(slugs())
    names = [name for name in dict.fromkeys(names) if name != SCRATCH]
    if not names:
        raise OptionError(
            "no method is named",
            "Give --methods with slugs and commas between them, or --methods all; `unlabeled methods` lists them.",
        )
    unused = [slug for slug in told if slug not in names]
    kinds = fitting.find_all([*names, *unused])
    sections = {}
    for slug in names:
        sections[slug] = {**told.get(slug, {}), **own.get(slug, {})}
        for name in sections[slug]:
            if name in Settings.names():
                raise OptionError(
                    f"[methods.{slug}] sets {name}, which says how runs use the machine",
                    "Write it below [settings].",
                )
    return {slug: kinds[slug] for slug in names}, sections


def _dims(network: dict[str, Any], sections: Mapping[str, Mapping[str, Any]]) -> int | None:
    """Find the axes of space that were asked for; all methods have the same."""
    asked = {network.pop("dims", None), *(section.get("dims") for section in sections.values())}
    asked -= {None}
    if len(asked) > 1:
        raise OptionError(
            "methods in 2D and in 3D have no network in common", "Compare them in two plans."
        )
    return asked.pop() if asked else None


def _encoder(
    asked: str | None,
    kinds: Mapping[str, type[Method]],
    sections: Mapping[str, Mapping[str, Any]],
) -> tuple[str, list[str]]:
    """Choose the one network of all."""
    told = {slug: section["encoder"] for slug, section in sections.items() if "encoder" in section}
    if asked is not None:
        told = {**dict.fromkeys(kinds, asked), **told}
    named = sorted(set(told.values()))
    for name in named:
        require_encoder(name)
    if len(named) > 1:
        each = ", ".join(f"{slug} {name}" for slug, name in told.items())
        raise OptionError(
            f"the networks differ ({each}), so that a difference could be the network's",
            f"Give one for all: --encoder {named[0]}, and none below [methods].",
        )
    if named:
        return named[0], []
    usual = {slug: kind.options_class.encoder for slug, kind in kinds.items()}
    if len(set(usual.values())) == 1:
        return next(iter(usual.values())), []
    return NETWORK, [
        f"the methods' own networks differ ({', '.join(f'{s}: {n}' for s, n in usual.items())}), so all take {NETWORK} "
        "(--encoder says another)"
    ]


def _finetuning(
    told: Mapping[str, Any],
    network: Mapping[str, Any],
    encoder: str,
    dims: int,
    methods: Mapping[str, Mapping[str, Any]],
    kinds: Mapping[str, type[Method]],
) -> dict[str, Any]:
    """Complete the options of fine-tuning: network, dims and patch are the same for all."""
    for name in CELL_OWN[:2]:
        if name in told:
            better = "fractions" if name == "label_fraction" else "seeds"
            raise OptionError(
                f"fine-tuning sets {name}, which differs from cell to cell",
                f"Give {better} of the plan: --{'label-' if better == 'fractions' else ''}{better}.",
            )
    if told.get("encoder", encoder) != encoder or told.get("dims", dims) != dims:
        raise OptionError(
            f"fine-tuning asks for {told.get('encoder', encoder)} in {told.get('dims', dims)}D, and pretraining for "
            f"{encoder} in {dims}D",
            "Leave encoder and dims out below [finetuning].",
        )
    made = {**network, **told, "encoder": encoder, "dims": dims}
    if not made.get("patch_size"):
        patches = []
        for slug, options in methods.items():
            own, _ = complete(kinds[slug].options_class, None, None, options)
            patches.append(tuple(own.patch_size)[:dims])
        made["patch_size"] = max(patches, key=_voxels)
    if len(made["patch_size"]) < dims:
        raise OptionError(
            f"--patch-size {' '.join(map(str, made['patch_size']))} has {len(made['patch_size'])} edges, the networks "
            f"{dims} axes",
            "Give one edge an axis, or --dims 2 to learn from slices.",
        )
    return made


def _subjects(count: int, part: str) -> str:
    return f"{count} {part} subject{'' if count == 1 else 's'}"


def _voxels(patch: Sequence[int]) -> int:
    count = 1
    for edge in patch:
        count *= edge
    return count
