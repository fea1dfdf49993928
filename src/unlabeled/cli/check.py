"""``unlabeled check``: what a folder of scans holds, what can be used, and what is wrong with the rest."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from unlabeled.cli.render import console, counted, messages, print_json
from unlabeled.data.checking import Finding, Findings, Group, check_scans
from unlabeled.data.fitness import NeedsLike
from unlabeled.data.index import index_scans

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

NOTHING_USABLE = 2


def check(
    scans: Path,
    /,
    *,
    slugs: Annotated[tuple[str, ...], Parameter(name="--for", negative=())] = (),
    labelled: Annotated[bool, Parameter(negative=())] = False,
    deep: Annotated[bool, Parameter(negative=())] = False,
    json: Annotated[bool, Parameter(negative=())] = False,
) -> int:
    """Say what can be used of a folder of scans, by which method, and what is wrong with the rest.

    Parameters
    ----------
    scans
        Folder, BIDS or nnU-Net raw data set, manifest (.csv, .jsonl, .parquet) or one file.
    slugs
        Method to check for; may be given several times.
    labelled
        Pair scans with their masks, labels or targets, as fine-tuning does.
    deep
        Read every voxel, not headers alone: finds NaN, constant scans, and masks that do not fit.
    json
        Print JSON.

    Returns
    -------
    int
        Exit code: 0, or 2 when nothing is usable.
    """
    needs: dict[str, NeedsLike] = {}
    if slugs:
        from unlabeled.methods._registry import find  # imports torch, which takes seconds

        needs = {slug: find(slug).needs for slug in slugs}
    index = index_scans(scans, labelled=labelled)
    total = len(index.sources)
    out = messages()
    with out.status("reading headers", spinner="dots") as status:
        findings = check_scans(
            index,
            needs=needs,
            deep=deep,
            progress=lambda done: status.update(f"{done} of {total} scans read"),
        )
    if json:
        print_json(findings.as_json())
    else:
        show(findings, console())
    return 0 if findings.usable else NOTHING_USABLE


def show(findings: Findings, out: Console) -> None:
    """Print findings for a person."""
    what = {"bids": "BIDS data set", "nnunet": "nnU-Net raw data set"}.get(
        findings.layout, findings.layout
    )
    out.print(f"{findings.root} ({what})", style="bold", markup=False)
    out.print(
        f"{counted(findings.scans, 'usable scan')} of {counted(findings.subjects, 'subject')} in "
        f"{counted(findings.studies, 'study', 'studies')}; {counted(len(findings.quarantine), 'file')} left out",
        markup=False,
    )
    out.print(f"Rule: {findings.rule}", markup=False)
    if findings.with_columns:
        has = ", ".join(f"{count} {name}" for name, count in findings.with_columns.items())
        out.print(f"Scans with: {has}", markup=False)
    if findings.splits:
        parts = ", ".join(f"{name} {count}" for name, count in findings.splits.items())
        out.print(f"Splits of the data: {parts}", markup=False)
    if findings.label_counts:
        values = ", ".join(
            f"{value} {findings.label_names.get(value, '')}".rstrip() + f" in {count}"
            for value, count in list(findings.label_counts.items())[:20]
        )
        out.print(f"Values of the masks: {values}", markup=False)
    if findings.groups:
        out.print(_group_table(findings.groups))
    for each in findings.methods:
        verdict = f"can use {counted(each.usable, 'scan')} of {counted(each.subjects, 'subject')}"
        out.print(
            f"{each.slug}: {verdict if each.fits else 'can use none'}", style="bold", markup=False
        )
        for reason in each.reasons:
            out.print(f"  {reason}", markup=False)
    _show_findings("Left out", findings.problems, out)
    _show_findings("Noteworthy", findings.remarks, out)
    for note in findings.notes:
        out.print(f"Note: {note}", markup=False)
    if not findings.usable:
        out.print("Nothing usable.", style="bold red")
    elif not findings.deep:
        out.print("Headers were read, voxels were not: --deep reads them too.", style="dim")


def _group_table(groups: tuple[Group, ...]) -> Table:
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("modality", "axes", "channels", "voxels", "spacing [mm]", "type"):
        table.add_column(name, overflow="fold")
    for name in ("scans", "studies", "subjects"):
        table.add_column(name, justify="right")
    for group in groups:
        table.add_row(
            group.modality or "unknown",
            f"{group.dims}D",
            "RGB" if group.colour else str(group.channels),
            _ranges(group.shape),
            _spacing(group),
            ", ".join(group.dtypes),
            str(group.scans),
            str(group.studies),
            str(group.subjects),
        )
    return table


def _spacing(group: Group) -> str:
    if group.spacing is None:
        return "unknown"
    text = _ranges(group.spacing)
    return f"{text}; {group.without_spacing} unknown" if group.without_spacing else text


def _ranges(axes: tuple[tuple[float, float], ...]) -> str:
    """Write the range of each axis: ``31..43 x 40..59``."""
    return " x ".join(
        f"{low:.3g}" if f"{low:.3g}" == f"{high:.3g}" else f"{low:.3g}..{high:.3g}"
        for low, high in axes
    )


def _show_findings(title: str, findings: tuple[Finding, ...], out: Console) -> None:
    for finding in findings:
        out.print(f"{title}: {counted(finding.count, 'file')}", style="yellow", markup=False)
        out.print(f"  {finding.text}", markup=False, soft_wrap=True)
        if finding.remedy:
            out.print(f"  {finding.remedy}", markup=False, soft_wrap=True)
        named = Path(finding.examples[0]).name in finding.text
        others = finding.examples[1:] if named else finding.examples
        if others:
            rest = finding.count - len(finding.examples)
            more = f" and {rest} more" if rest else ""
            also = "also " if named else ""
            out.print(f"  {also}{', '.join(others)}{more}", markup=False, soft_wrap=True)
