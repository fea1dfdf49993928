"""The pages in a real browser: nothing leaves, nothing fails, plots can be read and filtered, by everyone, everywhere."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from pages import example_report, hard_report, run_folder

from unlabeled.benchmark.report import write_report
from unlabeled.benchmark.run_report import write_run

LOOKING = Path(__file__).with_name("looking.js").read_text(encoding="utf-8")
DESK, PHONE = {"width": 1200, "height": 900}, {"width": 360, "height": 740}
SHOWN = "svg.scores .point:visible"


@pytest.fixture(scope="module")
def browser():
    """One browser for all tests here, without a window; it ends with them."""
    named = os.environ.get("UNLABELED_CHROMIUM")
    found = named or next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
    if found is None:
        told = (
            "no Chromium: install Debian's package chromium, or name one with $UNLABELED_CHROMIUM"
        )
        if os.environ.get("CI", "").lower() in ("true", "1"):
            pytest.fail(told)
        pytest.skip(told)
    driver = pytest.importorskip("playwright.sync_api")
    with driver.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield started
        started.close()


@dataclass
class Opened:
    """A page, what it asked for and what it complained of."""

    page: object
    asked: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)

    def faults(self, check: str) -> list[str]:
        return self.page.evaluate(f"looking.{check}()")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The pages that are looked at."""
    folder = tmp_path_factory.mktemp("pages")
    return {
        "example": write_report(folder / "example.html", example_report()),
        "hard": write_report(folder / "hard.html", hard_report()),
        "run": write_run(run_folder(folder / "run")),
    }


@pytest.fixture
def look(browser, files):
    """Open a page under given circumstances; requests and complaints are noted, and checked at the end."""
    opened = []

    def open_it(name="example", viewport=DESK, scheme="light", script=True, touch=False):
        context = browser.new_context(
            viewport=viewport,
            color_scheme=scheme,
            java_script_enabled=script,
            has_touch=touch,
            permissions=["clipboard-read", "clipboard-write"],
        )
        context.set_default_timeout(10_000)
        page = context.new_page()
        shown = Opened(page)
        opened.append((context, shown, files[name].as_uri()))
        page.on("request", lambda request: shown.asked.append(request.url))
        page.on("console", lambda line: shown.said.append(line.text))
        page.on("pageerror", lambda fault: shown.said.append(str(fault)))
        page.goto(files[name].as_uri())
        if script:
            page.evaluate(LOOKING)
        return shown

    yield open_it
    for context, shown, address in opened:
        context.close()
        assert shown.said == []
        assert {url for url in shown.asked if not url.startswith("data:image/")} == {address}


def test_nothing_is_asked_for_but_the_file_itself(look):
    shown = look()
    shown.page.wait_for_load_state("networkidle")
    assert shown.page.title() == "Does pretraining help? Models Genesis"
    assert shown.page.evaluate("[...document.images].every((one) => one.naturalWidth > 0)")


def test_the_policy_stops_what_is_not_the_pages_own(look):
    shown = look()
    stopped = shown.page.evaluate(
        """async () => {
            const stopped = [];
            document.addEventListener("securitypolicyviolation", (event) => stopped.push(event.effectiveDirective));
            const script = document.createElement("script");
            script.textContent = "window.strange = 1";
            document.body.append(script);
            await fetch("http://127.0.0.1:9/").catch(() => null);
            await new Promise((done) => setTimeout(done, 50));
            return [window.strange, ...stopped];
        }"""
    )
    assert stopped == [None, "script-src-elem", "connect-src"]
    shown.said.clear()  # the browser has told of both


@pytest.mark.parametrize("name", ["example", "hard"])
@pytest.mark.parametrize("viewport", [DESK, PHONE], ids=["desk", "phone"])
def test_plots_are_drawn_whole_and_no_page_is_too_wide(look, name, viewport):
    shown = look(name, viewport)
    data = example_report() if name == "example" else hard_report()
    assert shown.page.locator(SHOWN).count() == len(data.comparison.cells)
    axes = shown.page.locator("input[name=axis]")
    assert axes.count() == (
        2 if name == "example" else 0
    )  # how many subjects 50 % are is not known
    for place in range(axes.count() or 1):
        if axes.count():
            axes.nth(place).check()
        assert shown.faults("outside") == []
        assert shown.faults("wide") == []
    shown.page.locator("details").evaluate_all("all => all.forEach((one) => { one.open = true; })")
    assert shown.faults("wide") == []


def test_the_page_of_a_run_is_whole_and_no_wider_than_a_phone(look):
    shown = look("run", PHONE)
    titles = shown.page.locator("#curves h3").all_inner_texts()
    assert titles == [
        *("Training loss, warm", "Training loss, whole", "Validation patches: Dice"),
        *("Validation patches: loss", "Learning rate", "Speed", "Waiting for data"),
        "Scores on held-out scans",
    ]
    assert shown.page.locator("svg.lines .line").count() == 2 + 1 + 1 + 3 * 2
    shown.page.locator("details").evaluate_all("all => all.forEach((one) => { one.open = true; })")
    assert shown.faults("wide") == shown.faults("outside") == []
    words = shown.page.locator("body").inner_text()
    for part in (
        "did not improve any more",
        "(not set)",
        "no spacing",
        "genesis",
    ):
        assert part in words, part


def test_a_measure_is_chosen_by_keyboard(look):
    page = look().page
    assert page.locator(".measured:visible h3").first.inner_text() == "Dice by number of labels"
    page.locator("#pick").focus()
    page.keyboard.press("ArrowDown")
    assert page.locator(".measured:visible").count() == 1
    assert (
        page.locator(".measured:visible h3").first.inner_text() == "Dice, grey by number of labels"
    )
    assert page.locator(".measured:visible table.scores").is_visible()
    assert page.locator("[role=status]").inner_text() == "Showing Dice, grey"


def test_methods_are_filtered_by_click_and_by_keyboard(look):
    page = look().page
    box = page.locator(".filter input[value=models-genesis]")
    marks, rows = page.locator(SHOWN), page.locator("table.scores:visible tbody tr:visible")
    assert (marks.count(), rows.count()) == (6, 6)
    page.get_by_text("Models Genesis", exact=True).locator("visible=true").first.click()
    box.uncheck()
    assert (marks.count(), rows.count()) == (3, 3)
    assert page.locator("svg.differences .point:visible").count() == 0
    box.focus()
    page.keyboard.press("Space")
    assert (marks.count(), rows.count()) == (6, 6)


def test_the_axis_turns_logarithmic_and_back(look):
    shown = look()
    before = shown.faults("places")
    shown.page.locator("input[value=place]").focus()
    shown.page.keyboard.press("ArrowRight")
    after = shown.faults("places")
    assert shown.page.locator("input[value=log]").is_checked()
    assert [y for _, y in after] == pytest.approx([y for _, y in before], abs=0.6)
    assert [x for x, _ in after] != pytest.approx([x for x, _ in before], abs=3)
    first, second, third = (
        after[place][0] for place in (0, 1, 2)
    )  # scratch at 2, 5 and 20 subjects
    assert (second - first) / (third - first) == pytest.approx(0.398, abs=0.02)  # log 2.5 / log 10
    shown.page.locator("input[value=place]").check()
    assert shown.faults("places") == before


def test_values_show_under_the_pointer_the_finger_and_the_arrow_keys(look):
    page = look().page
    cell = example_report().comparison.cells[0]
    words = f"{cell.score.mean:.3f} (95 % interval {cell.score.low:.3f} to {cell.score.high:.3f})"
    plot = page.locator(".measured:visible .plot").first
    tip = plot.locator(".tip")
    assert tip.is_hidden()
    plot.locator(".point .mark").first.hover()
    assert tip.inner_text() == f"From scratch, 10 % of the labels: {words}"
    page.mouse.move(5, 5)
    assert tip.is_hidden()
    plot.focus()
    page.keyboard.press("ArrowRight")
    assert words in tip.inner_text()
    page.keyboard.press("End")
    assert "Models Genesis, all labels" in tip.inner_text()
    page.keyboard.press("Escape")
    assert tip.is_hidden()
    lines = page.locator("#curves .plot").last
    lines.focus()
    page.keyboard.press("Home")
    assert (
        lines.locator(".tip").inner_text() == "step 0\nFrom scratch: 0.300\nModels Genesis: 0.650"
    )
    phone = look(viewport=PHONE, touch=True).page
    touched = phone.locator(".measured:visible .plot").first
    touched.locator(".point .mark").first.tap()
    assert words in touched.locator(".tip").inner_text()
    box = touched.locator(".tip").bounding_box()
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= PHONE["width"]


def test_an_entry_is_copied_by_its_button(look):
    page = look().page
    page.get_by_text("BibTeX of models-genesis").click()
    button = page.get_by_role("button", name="Copy: BibTeX of models-genesis")
    button.focus()
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Copy: BibTeX").get_by_text("Copied").wait_for()
    assert (
        page.evaluate("navigator.clipboard.readText()") == "@article{zhou, title={Models Genesis}}"
    )


def test_without_the_script_everything_is_there(look):
    page = look(script=False).page
    assert page.locator(".measured:visible").count() == 3
    assert page.locator(".controls").is_hidden()
    assert page.locator("button").count() == 0
    assert page.locator(".point title").count() > 0  # the browser's own words under the pointer
    page.get_by_text("All numbers: Dice, grey").click()
    assert page.locator("#measure-1 table").is_visible()


def test_in_print_everything_is_expanded(look):
    page = look("example", {"width": 718, "height": 1047}).page  # A4 within its margins
    page.locator(".filter input").last.uncheck()
    page.emulate_media(media="print")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.locator(".measured:visible").count() == 3
    assert page.locator("table:visible").count() == page.locator("table").count()
    assert page.locator("pre:visible").count() == page.locator("pre").count()
    wide = "[...document.querySelectorAll('.scroll, pre')].filter((one) => one.scrollWidth > one.clientWidth)"
    assert page.evaluate(f"{wide}.map((one) => one.ariaLabel)") == []
    assert page.evaluate("looking.wide()") == []
    for gone in (".controls", "nav", "button", ".skip"):
        assert page.locator(gone).first.is_hidden(), gone
    assert page.locator("svg.scores .point:visible").count() == 18
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert paper == "rgb(255, 255, 255)"
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    page.emulate_media(media="screen")
    assert page.locator(".measured:visible").count() == 1
    assert page.locator("details[open]").count() == 1
    assert page.pdf(format="A4").startswith(b"%PDF")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["example", "hard", "run"])
def test_everyone_can_read_and_steer_it(look, name, scheme):
    shown = look(name, scheme=scheme)
    shown.page.locator("details").evaluate_all("all => all.forEach((one) => { one.open = true; })")
    plot = shown.page.locator(".plot").first
    plot.focus()
    shown.page.keyboard.press("Home")  # with the tip over the plot
    dark = (
        shown.page.evaluate("getComputedStyle(document.body).backgroundColor")
        != "rgb(246, 247, 249)"
    )
    assert dark == (scheme == "dark")
    checks = ("contrast", "marks", "names", "headings", "landmarks", "ids", "tables", "pictures")
    assert {check: faults for check in checks if (faults := shown.faults(check))} == {}


def test_the_keyboard_goes_everywhere_and_is_seen(look):
    page = look().page
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    assert page.locator(".skip").bounding_box()["x"] >= 0
    reached = set()
    for _ in range(60):
        page.keyboard.press("Tab")
        kind, outline = page.evaluate(
            """(() => {
                const at = document.activeElement;
                return [at === document.body ? "" : at.className || at.tagName + at.type, getComputedStyle(at).outlineStyle];
            })()"""
        )
        if not kind:
            break
        assert outline != "none", kind
        reached.add(kind.split()[0])
    assert {"plot", "scroll", "copy", "SUMMARYundefined", "INPUTradio", "INPUTcheckbox"} <= reached
