"""A page a method: around what people wrote, what the method, the catalogue and the evidence say of themselves."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from unlabeled.catalogue import card, cards
from unlabeled.catalogue.bibtex import bibtex
from unlabeled.catalogue.cards import Card
from unlabeled.catalogue.evidence import Measured, Proof, measured, proofs, tell_measured
from unlabeled.catalogue.markdown import linked, table
from unlabeled.catalogue.venues import VENUES
from unlabeled.cli.options import describe
from unlabeled.methods._base import Needs, SharedOptions
from unlabeled.methods._outline import Outline, outline
from unlabeled.methods._registry import find, slugs
from unlabeled.options import Between, Options, flag

PICTURES = Path(__file__).resolve().parents[1] / "images" / "previews"
_HEAD = re.compile(r"\A(# [^\n]*\n\n[^\n]*\n)")
_ROW = re.compile(r"^\| *((?:`--[a-z0-9-]+`,? *)+)\|[^|\n]*\|([^|\n]*)\|$", re.M)


def overview() -> str:
    """List the methods with what each learns from and needs."""
    rows = []
    for slug in slugs():
        if slug in cards():
            told, paper = outline(slug), card(slug)
            rows.append(
                (
                    f"[{slug}]({slug}.md)",
                    paper.category,
                    "" if told is None else f"{told.unit}, {_dims(told.dims)}",
                    ", ".join(needs_of(find(slug).needs)) or "nothing more",
                    "" if told is None else ", ".join(told.carries),
                    f"{paper.venue} {paper.year}",
                )
            )
    later = [
        (each.slug, each.category, each.modality, f"{each.venue} {each.year}", _links(each))
        for each in cards().values()
        if each.slug not in slugs()
    ]
    columns = ("method", "category", "learns from", "needs", "carries to a task", "paper")
    return f"""# Methods

Every method has the same command, `unlabeled pretrain SLUG SCANS --out RUN`, and leaves a run folder that every task starts from. Which one
to take? One that your data has what it needs for, then [measure](../guides/judging.md): no method was best everywhere.

{table(columns, rows)}

```bash
unlabeled methods
unlabeled methods models-genesis
```

## Not yet

These papers of the [catalogue](../catalogue/index.md) do not run here yet. [Adding one](../contributing.md#adding-a-method) takes one file.

{table(("paper", "category", "scans", "venue", "links"), later)}
"""


def complete(slug: str, written: str) -> str:
    """Put the card below the title and first sentence of a page, and options, figures and citation at its end."""
    told = outline(slug)
    kind = find(slug)
    head = _HEAD.match(written)
    if head is None or told is None:
        raise ValueError(f"docs/methods/{slug}.md does not begin with a title and one sentence")
    paper = card(slug)
    parts = [
        head[1],
        _card(paper, told, kind.needs),
        written[head.end() :].rstrip(),
        _quirks(kind.quirks, written),
        _options(kind.options_class, written),
        _figures(proofs().get(slug, ()), measured().get(slug, ())),
        f"## How to cite\n\n```bibtex\n{bibtex(paper)}\n```",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _card(paper: Card, told: Outline, needs: Needs) -> str:
    venue = VENUES[paper.venue].name if paper.venue in VENUES else paper.venue
    official = "clean (default), official" if "official" in told.fidelity else "clean"
    rows = [
        ("Paper", f"{paper.title}. {venue}, {paper.year}"),
        ("Authors", ", ".join(paper.authors)),
        ("Links", _links(paper)),
        ("Category", paper.category),
        ("Learns from", f"one {told.unit} a sample, {_dims(told.dims)}"),
        ("Needs", ", ".join(needs_of(needs)) or "nothing but the scans"),
        ("Carries to a task", ", ".join(told.carries)),
        ("Makes by itself", told.makes),
        ("`--fidelity`", official),
        ("Against scratch", tell_measured(measured().get(paper.slug, ())) or "not measured yet"),
    ]
    shown = table(("", ""), [row for row in rows if row[1]]).replace("| N/A | N/A |", "| | |", 1)
    picture = PICTURES / f"{paper.slug}.png"
    image = (
        f"\n\n![What the network sees, must give, and gives](../images/previews/{picture.name})"
        if picture.is_file()
        else ""
    )
    return f"{shown}{image}"


def needs_of(needs: Needs) -> list[str]:
    """Say what a method asks of the data, all of it.

    >>> from unlabeled.data.scan import Unit
    >>> needs_of(Needs(unit=Unit.IMAGE, dims=(2,), some=("response",), subjects=2))
    ['response in some rows', '2 subjects']
    """
    told = [*needs.metadata, *(f"{name} in some rows" for name in needs.some)]
    told += ["whole volumes"] if needs.volumes else []
    told += ["colour"] if needs.colour else []
    counts = {
        "modalities": needs.channels,
        "channels in some scan": needs.some_channels,
        "scans a subject": needs.scans_per_subject,
        "subjects": needs.subjects,
    }
    return told + [f"{count} {what}" for what, count in counts.items() if count > 1]


def _links(paper: Card) -> str:
    both = (linked("Paper", paper.paper_links), linked("Code", paper.code_links))
    return ", ".join(part for part in both if part)


def _quirks(quirks: Any, written: str) -> str:
    """List what ``official`` reproduces, where the page has no section of its own."""
    if not quirks or "## Official and clean" in written:
        return ""
    listed = "\n".join(f"- **{name}**: {text}" for name, text in quirks.items())
    return f"## Official quirks, mended by default\n\n{listed}"


def _options(kind: type[Options], written: str) -> str:
    """Write all options: default, meaning with unit and range, and the source that the page names for it."""
    told, sources = describe(kind), sources_of(written)
    hints = get_type_hints(kind, include_extras=True)
    made, shared = kind(), set(SharedOptions.names())
    own: list[tuple[str, ...]] = []
    common: list[tuple[str, ...]] = []
    for field in dataclasses.fields(kind):
        hint = hints[field.name]
        value = getattr(made, field.name)
        meaning = " ".join(told.get(field.name, "").split())
        row = (
            f"`{flag(field.name)}`",
            _typed(value),
            meaning + _limits(hint),
            sources.get(flag(field.name), ""),
        )
        (common if field.name in shared else own).append(row)
    columns = ("option", "default", "meaning", "source")
    parts = ["## All options"]
    if own:
        parts += ["### Of this method", _table(columns, own)]
    parts += ["### Of every pretraining", _table(columns, common)]
    parts.append(
        f"`unlabeled pretrain {kind_slug(kind)} --help` prints them with those of the machine "
        "([commands](../reference/commands.md#unlabeled-pretrain))."
    )
    return "\n\n".join(parts)


def kind_slug(kind: type[Options]) -> str:
    """Find whose options a class is."""
    return next(slug for slug in slugs() if find(slug).options_class is kind)


def sources_of(written: str) -> dict[str, str]:
    """Read the column of sources of a page's table of options.

    >>> sources_of("| `--a`, `--b-c` | 1 | official code |")
    {'--a': 'official code', '--b-c': 'official code'}
    """
    return {
        name: source.strip()
        for names, source in _ROW.findall(written)
        for name in re.findall(r"`(--[a-z0-9-]+)`", names)
    }


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return table(columns, [[cell or "&nbsp;" for cell in row] for row in rows])


def _limits(hint: Any) -> str:
    """Write range and choices of an option, if any."""
    marks = [mark for mark in getattr(hint, "__metadata__", ()) if isinstance(mark, Between)]
    inner = get_args(hint)[0] if get_origin(hint) is Annotated else hint
    choices = [
        str(choice)
        for each in (inner, *get_args(inner))
        if get_origin(each) is Literal
        for choice in get_args(each)
    ]
    told = [str(mark) for mark in marks] + ([", ".join(choices)] if choices else [])
    return f" ({'; '.join(told)})" if told else ""


def _typed(value: Any) -> str:
    if value is None or value in ("", ()):
        return "none"
    if isinstance(value, tuple | list):
        return " ".join(map(str, value))
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else str(value)


def _figures(proved: Sequence[Proof], compared: Sequence[Measured]) -> str:
    """Write what was measured, all of it."""
    parts = ["## Measured", "### Small-scale proof"]
    if proved:
        rows = [
            (row.data, row.figure.replace("_", " "), f"{row.value:.4g}", f"`{row.test}`")
            for row in proved
        ]
        parts.append(table(("data", "figure", "value", "printed by"), rows))
    else:
        parts.append("No figures are kept yet.")
    parts.append("### Against the same network from scratch, on real data")
    if not compared:
        parts.append("Not measured yet.")
        return "\n\n".join(parts)
    parts.append(
        f"{tell_measured(compared).capitalize()} comparisons. Intervals are over new seeds and new subjects; p by Holm's correction."
    )
    results = [
        (
            f"[{row.plan}](../evidence/{row.plan}.md)",
            f"{row.task}, {row.metric}",
            row.label_fraction,
            f"{row.scratch:.3f}",
            f"{row.pretrained:.3f}",
            f"{row.difference:+.3f} ({row.low:+.3f} to {row.high:+.3f})",
            f"{row.p_holm:.2g}",
            {"none": "no significant difference"}.get(row.finding, row.finding),
        )
        for row in compared
    ]
    columns = (
        "data",
        "measured",
        "labels",
        "scratch",
        "pretrained",
        "difference (95 %)",
        "p",
        "finding",
    )
    parts.append(table(columns, results))
    return "\n\n".join(parts)


def _dims(dims: Sequence[int]) -> str:
    return " and ".join(f"{dim}D" for dim in dims)
