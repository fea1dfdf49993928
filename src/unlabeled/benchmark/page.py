"""A page that stands alone: one HTML file with its own style and script, which the page's security policy names by digest.

Nothing is loaded from elsewhere and nothing but the page's own script runs, so the file can be mailed, archived and opened inside
a hospital network.  Without the script, and in print, the page shows everything that it holds.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from unlabeled.benchmark.numbers import duration_text, number_text
from unlabeled.benchmark.verdict import fraction_text, p_text, signed
from unlabeled.errors import RunError
from unlabeled.training.checkpoint import write_atomically

_TEMPLATES = "templates"


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture file's bytes (PNG or JPEG), what it shows in one line, and the caption under it."""

    png: bytes
    alt: str
    caption: str = ""


@dataclass(frozen=True, slots=True)
class Command:
    """A command to type, and what it does."""

    text: str
    says: str


def render_page(template: str, values: Mapping[str, Any]) -> str:
    """Render a template as HTML text; every text among the values is escaped.

    Parameters
    ----------
    template
        File among the templates.
    values
        What it shows.
    """
    style, script = _resource("page.css"), _resource("page.js")
    return (
        _environment()
        .get_template(template)
        .render(
            **values,
            style=Markup(style),  # noqa: S704 - our own files
            script=Markup(script),  # noqa: S704
            policy="; ".join(
                [
                    "default-src 'none'",
                    "img-src data:",
                    f"style-src '{_digest(style)}'",
                    f"script-src '{_digest(script)}'",
                    "base-uri 'none'",
                    "form-action 'none'",
                ]
            ),
        )
    )


def write_page(path: Path | str, text: str) -> Path:
    """Write a page, replacing the file at once or not at all.

    Raises
    ------
    RunError
        The file cannot be written.
    """
    target = Path(path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(target, text.encode())
    except OSError as fault:
        raise RunError(
            f"cannot write {target} ({fault.strerror or fault})",
            "Give a file that you may write with --out.",
        ) from None
    return target


def _data_uri(png: bytes) -> str:
    kind = "jpeg" if png.startswith(b"\xff\xd8") else "png"
    return f"data:image/{kind};base64," + base64.b64encode(png).decode("ascii")


def _digest(text: str) -> str:
    """Give the digest by which a security policy allows an inline style or script."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")


@cache
def _resource(name: str) -> str:
    text = files("unlabeled.benchmark").joinpath(_TEMPLATES, name).read_text(encoding="utf-8")
    return "\n" + text.strip() + "\n"


@cache
def _environment() -> Environment:
    made = Environment(
        loader=PackageLoader("unlabeled.benchmark", _TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update(
        data_uri=_data_uri,
        fraction=fraction_text,
        p=p_text,
        signed=signed,
        number=number_text,
        duration=duration_text,
    )
    return made
