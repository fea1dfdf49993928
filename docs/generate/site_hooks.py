"""What MkDocs calls while it builds the site: pages made from the package's own data, and links that leave `docs/`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import site_catalogue
import site_methods
import site_reference

ROOT = Path(__file__).resolve().parents[2]
#: files outside docs/ that are pages of the site, by their place in it
BORROWED = {"contributing.md": "CONTRIBUTING.md", "changelog.md": "CHANGELOG.md"}
_COMMENT = re.compile(r"^[ \t]*<!--.*?-->[ \t]*\n?", re.M | re.S)
_LINK = re.compile(r"\]\((?P<link>[^)\s]+)\)")


def on_config(config: Any) -> Any:
    """Put every method and every table of evidence into the menus."""
    for section in config["nav"]:
        for pages in section.values():
            if "methods/index.md" in pages:
                pages += [{path.stem: f"methods/{path.name}"} for path in of_methods()]
            for place, page in enumerate(pages if isinstance(pages, list) else []):
                if page == {"Evidence": "evidence/index.md"}:
                    tables = [f"evidence/{path.name}" for path in of_evidence()]
                    pages[place] = {"Evidence": ["evidence/index.md", *tables]}
    return config


def of_methods() -> list[Path]:
    """List the pages that people wrote on methods."""
    return sorted((ROOT / "docs" / "methods").glob("*.md"))


def of_evidence() -> list[Path]:
    """List the tables of comparisons."""
    return sorted((ROOT / "evidence").glob("*.md"))


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that nobody writes by hand."""
    from mkdocs.structure.files import File

    for place, content in generated().items():
        files.append(File.generated(config, place, content=content))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Complete a page of a method, drop comments that are for the tests, and mend links that leave `docs/`."""
    place = page.file.src_uri
    if place.startswith("methods/") and place != "methods/index.md":
        markdown = site_methods.complete(page.file.name, markdown)
    if page.file.generated_by is None:
        markdown = _COMMENT.sub("", markdown)
    return mend_links(markdown, place)


def generated() -> dict[str, str]:
    """Make all pages that are not in `docs/`, and the files that pages link to, by their place on the site."""
    pages = {
        place: (ROOT / source).read_text(encoding="utf-8") for place, source in BORROWED.items()
    }
    pages |= {
        "methods/index.md": site_methods.overview(),
        "catalogue/index.md": site_catalogue.overview(),
        "catalogue/by-year.md": site_catalogue.by_year(),
        "catalogue/one-table.md": site_catalogue.in_one_table(),
        "catalogue/bibtex.md": site_catalogue.bibtex(),
        "reference/commands.md": site_reference.commands(),
        "reference/python.md": site_reference.python(),
    }
    evidence = ROOT / "evidence"
    pages |= {f"evidence/{path.name}": path.read_text(encoding="utf-8") for path in of_evidence()}
    pages["evidence/index.md"] = site_catalogue.evidence([path.stem for path in of_evidence()])
    for path in sorted([*evidence.glob("*.csv"), *evidence.glob("plans/*.toml")]):
        pages[path.relative_to(ROOT).as_posix()] = path.read_text(encoding="utf-8")
    return pages


def mend_links(markdown: str, place: str) -> str:
    """Point links to files of the repository, as they are right when it is browsed, to their places on the site.

    >>> mend_links("[a](../../evidence/small-scale.csv)", "methods/c2l.md")
    '[a](../evidence/small-scale.csv)'
    >>> mend_links("[a](docs/methods/c2l.md)", "contributing.md")
    '[a](methods/c2l.md)'
    """
    depth = place.count("/")
    borrowed = place in BORROWED or place.startswith("evidence/")

    def mend(found: re.Match[str]) -> str:
        link = found["link"]
        if "://" in link or link.startswith("#"):
            return found[0]
        up = "../" * (depth if borrowed else depth + 1)
        if not link.startswith(up):
            return found[0]
        inside = link.removeprefix(up)
        known = {source: page for page, source in BORROWED.items()}
        if inside in known:
            inside = known[inside]
        elif borrowed and inside.startswith("docs/"):
            inside = inside.removeprefix("docs/")
        elif not inside.startswith("evidence/"):
            return found[0]
        return f"]({'../' * depth}{inside})"

    return _LINK.sub(mend, markdown)
