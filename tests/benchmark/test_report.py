"""The report stands alone, holds every section, escapes what it is given and is well-formed."""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from pages import example_comparison, example_report, measured

from unlabeled.benchmark.drawing import Axis
from unlabeled.benchmark.numbers import duration_text
from unlabeled.benchmark.report import ReportData, render_report, write_report
from unlabeled.benchmark.statistics import Score, compare_scores

VOID = {"meta", "img", "br", "hr", "link", "input"}
HOSTILE = "<script>alert('x')</script>\"'&<img src=http://evil.example/x.png onerror=alert(1)>"


class Reader(HTMLParser):
    """Collects tags, ids, links and text, and checks that tags balance."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words += data

    def of(self, tag):
        return [attributes for name, attributes in self.seen if name == tag]


def test_every_section_is_there_and_the_verdict_comes_first():
    page = Reader(render_report(example_report()))
    ids = [a["id"] for _, a in page.seen if "id" in a]
    for section in (
        "done",
        "scores",
        "curves",
        "pretext",
        "examples",
        "data",
        "methods",
        "reproduce",
    ):
        assert section in ids
    assert len(ids) == len(set(ids))
    words = page.words
    assert words.index("Pretraining with Models Genesis improved Dice") < words.index(
        "What was done", words.index("Virtual")
    )
    for text in (
        "virtual",
        "template",
        "Files left out: 3",
        "@article{zhou",
        "2.13.0",
        "unlabeled demo",
        "42 s",
        "7.5 s",
    ):
        assert text.lower() in words.lower(), text
    assert len(page.of("tr")) > 6
    assert len(page.of("h1")) == 1


def digest(text):
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def test_references_lead_nowhere_outside():
    page = Reader(render_report(example_report()))
    ids = {a["id"] for _, a in page.seen if "id" in a}
    for tag, attributes in page.seen:
        assert tag not in {"link", "iframe", "object", "embed", "base", "form"}
        for name, value in attributes.items():
            assert not name.startswith("on")
            assert name not in {"srcset", "action", "background", "style"}
            if name == "src":
                assert value.startswith(("data:image/png;base64,", "data:image/jpeg;base64,"))
            if name == "href" and not value.startswith("#"):  # a paper, to be opened by hand
                assert value.startswith("https://")
                assert attributes["rel"] == "noreferrer noopener"
            elif name in {"href", "xlink:href"}:
                assert value[1:] in ids
            if name in {"aria-labelledby"}:
                assert set(value.split()) <= ids


def test_the_policy_allows_the_pages_own_style_and_script_alone():
    text = render_report(example_report(HOSTILE))
    page = Reader(text)
    policy = next(a["content"] for a in page.of("meta") if "http-equiv" in a)
    style = re.search(r"<style>(.*?)</style>", text, re.S).group(1)
    script = re.search(r"<script>(.*?)</script>", text, re.S).group(1)
    assert len(page.of("script")) == len(page.of("style")) == 1
    assert set(policy.split("; ")) == {
        "default-src 'none'",
        "img-src data:",
        f"style-src '{digest(style)}'",
        f"script-src '{digest(script)}'",
        "base-uri 'none'",
        "form-action 'none'",
    }
    assert "url(" not in style
    assert "@import" not in style
    for word in ("fetch(", "XMLHttpRequest", "import(", "innerHTML", "eval(", "http"):
        assert word not in script, word


def test_hostile_names_are_only_text():
    text = render_report(example_report(HOSTILE, slug='a<b>&"c'))
    page = Reader(text)
    assert text.count("<script") == 1
    assert "onerror=alert" in page.words  # shown, not run
    assert all("onerror" not in attributes for _, attributes in page.seen)
    assert all((a.get("src") or "").startswith("data:") for a in page.of("img"))
    assert not any(
        "evil" in (value or "")
        for tag, a in page.seen
        for name, value in a.items()
        if name in {"src", "href"}
    )


def test_pictures_and_charts_speak():
    page = Reader(render_report(example_report()))
    assert len(page.of("img")) == 7  # a pretext panel, and two pictures of three scans
    assert all(a.get("alt") for a in page.of("img"))
    charts = [a for a in page.of("svg") if a.get("role") == "img"]
    assert len(charts) == 3 * 2 + 2  # two for each measure, and two learning curves
    assert all(a["aria-labelledby"] for a in charts)
    assert all(a.get("aria-hidden") == "true" for a in page.of("svg") if a.get("role") != "img")
    assert all(a.get("tabindex") == "0" for _, a in page.seen if a.get("role") == "region")


def test_optional_parts_may_be_absent():
    alone = compare_scores(
        [Score("scratch", 4, 0, f"s{i}", 0.5 + i / 100) for i in range(4)], resamples=50
    )
    page = Reader(
        render_report(
            ReportData(title="Bare", measured=(measured(alone),), done=("Nothing more.",))
        )
    )
    assert "nothing can be said about a gain" in page.words
    assert "4 labelled subjects" in page.words
    assert "Every file was read and used." in page.words
    assert "Virtual" not in page.words
    targets = {a["href"] for a in page.of("a")}
    assert "#curves" not in targets
    assert "#classes" not in targets
    none = Reader(render_report(ReportData(title="Empty", measured=(), done=())))
    assert "nothing can be said yet" in none.words


def test_no_gain_is_said_as_plainly_as_a_gain():
    page = render_report(example_report(comparison=example_comparison(effect=0.0)))
    assert 'class="verdict none"' in page
    assert "No significant gain" in page
    harm = render_report(example_report(comparison=example_comparison(effect=-0.1)))
    assert 'class="verdict harm"' in harm


def test_single_subjects_and_infinite_intervals_are_drawn():
    rows = [
        Score(m, 1, s, "only", 0.5 + s / 10 + (m == "a") / 7)
        for m in ("scratch", "a")
        for s in range(2)
    ]
    shown = (measured(compare_scores(rows)),)
    text = render_report(ReportData(title="One", measured=shown, done=()))
    words = Reader(text).words
    assert "NaN" not in text
    assert "inf" not in words.replace("information", "")
    assert "\N{MINUS SIGN}\N{INFINITY} to \N{INFINITY}" in words
    drawn = re.findall(r'(?:x1|x2|y1|y2|cx|cy)="([^"]+)"', text)
    assert all(np.isfinite(float(value)) for value in drawn)


def test_the_file_is_small_and_replaces_the_old_one_whole(tmp_path):
    path = write_report(tmp_path / "new" / "report.html", example_report())
    size = path.stat().st_size
    assert 20_000 < size < 600_000
    write_report(path, example_report("Other"))
    assert "Other" in path.read_text(encoding="utf-8")
    assert [file.name for file in path.parent.iterdir()] == ["report.html"]


def test_the_same_data_gives_the_same_bytes():
    assert render_report(example_report()) == render_report(example_report())


@pytest.mark.parametrize(
    ("values", "ticks"),
    [
        ((0.0, 1.0), (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)),
        ((0.61, 0.69), (0.6, 0.62, 0.64, 0.66, 0.68, 0.7)),
        ((3.0, 3.0), None),
        ((0.001, 0.001), None),
        ((-2e-5, -2e-5), None),
        ((0.0, 0.0), None),
    ],
)
def test_ticks_are_round_and_enclose_the_values(values, ticks):
    axis = Axis.over(values, 0.0, 100.0, 5)
    assert axis.low <= min(values) <= max(values) <= axis.high
    if ticks is not None:
        assert axis.ticks == pytest.approx(ticks)
    assert len(set(axis.ticks)) == len(axis.ticks) > 2
    if values[0]:  # one value fills its axis, however small it is
        assert axis.high - axis.low < 3 * max(map(abs, values))
    assert axis.at(axis.low) == 0.0
    assert axis.at(axis.high) == 100.0


def test_durations_stay_readable():
    assert duration_text(59.6) == "1 min 0 s"
    assert duration_text(9.99) == "10.0 s"
    assert duration_text(3599.9) == "1 h 0 min"
