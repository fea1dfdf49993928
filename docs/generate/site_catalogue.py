"""Pages of papers and of evidence, from the catalogue that the command line reads."""

from __future__ import annotations

from collections.abc import Sequence

from unlabeled.catalogue import Card, cards
from unlabeled.catalogue.bibtex import bibliography
from unlabeled.catalogue.evidence import measured, proofs, tell_measured, tell_proofs
from unlabeled.catalogue.markdown import linked, markdown, table
from unlabeled.methods._outline import outline
from unlabeled.methods._registry import slugs


def overview() -> str:
    """List every paper: what can be run here, what not yet."""
    rows = [
        (
            _name(card),
            str(card.year),
            card.venue,
            card.title,
            card.category,
            linked("Paper", card.paper_links),
            "yes" if card.slug in slugs() else "not yet",
        )
        for card in cards().values()
    ]
    running = sum(slug in slugs() for slug in cards())
    columns = ("method", "year", "venue", "title", "category", "links", "runs here")
    return f"""# Catalogue

Two reading lists on self-supervised learning from medical images stand behind this project: {len(cards())} papers, {running} of which
run here with one command. The same data is on the command line:

```bash
unlabeled papers
unlabeled papers models-genesis
unlabeled papers --bibtex
```

The lists in their own layouts: [by year](by-year.md), [in one table](one-table.md), [BibTeX of all](bibtex.md). To add a paper, see
[Adding a paper](../contributing.md#adding-a-paper).

{table(columns, rows)}
"""


def by_year() -> str:
    """Write all papers in the layout of the first list."""
    return f"""# Papers by year

Written by `unlabeled papers --markdown`.

{markdown(list(cards().values()), "A")}
"""


def in_one_table() -> str:
    """Write all papers in the layout of the second list."""
    return f"""# Papers in one table

The same papers with the kind of scans that they use; dates are years of publication.

{markdown(list(cards().values()), "B")}
"""


def bibtex() -> str:
    """Write the entries of all papers."""
    return f"""# BibTeX

Written by `unlabeled papers --bibtex`. Cite the paper of the method that you ran; a run folder's report has its entry, too.

```bibtex
{bibliography(cards().values())}
```
"""


def evidence(tables: Sequence[str]) -> str:
    """Say what was measured of every method, and where."""
    rows = [
        (
            f"[{slug}](../methods/{slug}.md)",
            "; ".join(tell_proofs(proofs().get(slug, ()))) or "no figures are kept",
            tell_measured(measured().get(slug, ())) or "not measured",
        )
        for slug in slugs()
        if slug in cards()
    ]
    listed = "\n".join(
        f"- [{name}]({name}.md) ([scores by subject]({name}.csv))" for name in tables
    )
    return f"""# Evidence

No number here was entered by hand: scores of single subjects and the printout of the proofs are kept as CSV files, and the tables are computed
from them. *Small-scale proof*: does the method learn its pretext task at all, against doing nothing or guessing. *Against scratch*: in how many of the
comparisons on real data pretraining was significantly better (p < 0.05 after Holm's correction) than the same network from scratch with the
same budget. Every comparison counts.

## Comparisons on real data

{listed}

To run one again, with the data in a folder of yours: `make evidence DATA=... PLAN=hippocampus-mri`; the plans lie in `evidence/plans/`.

## What each method has shown

{table(("method", "small-scale proof", "against scratch"), rows)}

All figures of the proofs: [small-scale.csv](small-scale.csv); `make small-scale` computes them anew.
"""


def _name(card: Card) -> str:
    here = card.slug in slugs() and outline(card.slug) is not None
    return f"[{card.slug}](../methods/{card.slug}.md)" if here else card.slug
