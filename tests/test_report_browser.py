"""The report's page in a real browser: light, dark, on a phone and on paper; what is drawn, what is said, what is sent."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import test_report as reports
from browser import NoBrowserError, chromium, url_of
from desk import Conn
from report_pages import Page, make_page

SCREENSHOT_BAR = 900_000  # bytes of a whole page as PNG; what is kept in docs/images has a bar of its own
PICTURE_BAR = 150_000
PROJECT = Path(__file__).resolve().parent.parent
PICTURES = ("report.png", "report-dark.png")
RUNS: dict[str, Callable[[Conn], Any]] = {
    "busy": reports.busy_run,
    "margin": reports.margin,
    "minutes": reports.minutes,
    "huge": reports.huge,
    "one_bar": reports.one_bar,
    "never_ticked": reports.never_ticked,
}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    try:
        with chromium() as found:
            yield found
    except NoBrowserError as exc:
        pytest.skip(str(exc))


@pytest.fixture(scope="module")
def pages(_shared: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The page of each run, and one that compares two of them."""
    folder = tmp_path_factory.mktemp("pages")
    texts = {}
    with psycopg.connect(_shared) as conn:
        made = {name: build(conn) for name, build in RUNS.items()}
        for name, run in made.items():
            texts[name] = make_page(conn, run.key)
        texts["compared"] = make_page(conn, made["busy"].key, made["minutes"].key, made["margin"].key, benchmark="B")
        conn.rollback()
    for name, text in texts.items():
        (folder / f"{name}.html").write_text(text, encoding="utf-8")
    return {name: folder / f"{name}.html" for name in texts}


ALL = [*RUNS, "compared"]


class Tab:
    """A page that is open, and all that it has said and asked for."""

    def __init__(self, browser: Any, path: Path, width: int = 1120, **options: Any) -> None:
        self.context = browser.new_context(viewport={"width": width, "height": 900}, **options)
        self.page = self.context.new_page()
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(url_of(path))
        self.read = Page(path.read_text(encoding="utf-8"))

    def run(self, script: str, argument: Any = None) -> Any:
        return self.page.evaluate(script, argument)


@pytest.fixture
def tab(browser: Any, pages: dict[str, Path]) -> Iterator[Callable[..., Tab]]:
    opened: list[Tab] = []

    def make(name: str, width: int = 1120, **options: Any) -> Tab:
        opened.append(Tab(browser, pages[name], width, **options))
        return opened[-1]

    yield make
    for one in opened:
        one.context.close()
        assert one.said == []
        assert [url for url in one.asked if not url.startswith(("file:", "data:"))] == []
        assert len(one.asked) == 1 or one.asked[1:] == ["data:,"] * (len(one.asked) - 1)


# Marks of a chart: their boxes as drawn, in parts of the plot. A zero-length stroke is a point.
MARKS = """plot => [...plot.querySelectorAll('.marks path:not(.grid):not(.base)')].map(path => {
  const box = path.getBBox(), view = path.ownerSVGElement.viewBox.baseVal;
  return {length: path.getTotalLength(), points: path.getAttribute('d').split('M').length - 1,
          inside: box.x >= -1 && box.y >= -1 && box.x + box.width <= view.width + 1 && box.y + box.height <= view.height + 1};
})"""
LABELS = """figure => ['.y text', '.x text'].map(which => [...figure.querySelectorAll(which)]
  .filter(node => getComputedStyle(node).display !== 'none')
  .map(node => { const b = node.getBoundingClientRect(); return [b.left, b.top, b.right, b.bottom, node.textContent]; }))"""


@pytest.mark.parametrize("width", [360, 1120])
@pytest.mark.parametrize("name", ALL)
def test_every_chart_has_marks_and_labels_that_can_be_read(tab: Callable[..., Tab], name: str, width: int) -> None:
    one = tab(name, width)
    figures = one.page.query_selector_all("figure.chart")
    assert len(figures) == len(one.read.data)
    assert bool(figures) == (name != "never_ticked")
    for figure in figures:
        marks = figure.query_selector(".plot").evaluate(MARKS)
        assert marks
        assert all(mark["inside"] and (mark["length"] > 0 or mark["points"] > 0) for mark in marks), (
            figure.get_attribute("id")
        )
        down, across = figure.evaluate(LABELS)
        assert len(down) >= 2
        assert len(across) >= 1
        for labels in (down, across):
            for n, a in enumerate(labels):
                assert a[0] >= 0
                assert a[2] <= width, a
                for b in labels[n + 1 :]:
                    assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] + 1 or b[3] <= a[1] + 1, (a, b)
    assert one.run("document.documentElement.scrollWidth") <= width


TIP = "plot => { const tip = plot.querySelector('.tip'); return tip.hidden ? null : tip.innerText; }"


def said_at(page: Page, chart: str, place: int) -> list[str]:
    """The numbers that a tooltip should have there, as the table of the page's data has them."""
    _, series = page.points(chart)
    found = []
    for texts in series.values():
        if texts[place]:
            whole, point, rest = texts[place].lstrip("-").partition(".")
            sign = "\N{MINUS SIGN}" if texts[place].startswith("-") else ""
            found.append(f"{sign}{int(whole):,}{point}{rest}")
    return found


@pytest.mark.parametrize("name", ["busy", "minutes", "margin", "one_bar", "compared"])
def test_tooltips_follow_the_pointer_and_the_keys(tab: Callable[..., Tab], name: str) -> None:
    one = tab(name)
    for plot in one.page.query_selector_all(".plot"):
        chart = plot.get_attribute("data-chart")
        xs, series = one.read.points(chart)
        assert plot.evaluate(TIP) is None
        for share in (0.02, 0.5, 0.98):
            plot.scroll_into_view_if_needed()
            box = plot.bounding_box()
            one.page.mouse.move(box["x"] + box["width"] * share, box["y"] + box["height"] / 2)
            place = min(range(len(xs)), key=lambda n: abs(xs[n] - 2000 * share))
            tip = plot.evaluate(TIP)
            near = [n for n in range(len(xs)) if abs(abs(xs[n] - 2000 * share) - abs(xs[place] - 2000 * share)) <= 4]
            assert any(all(number in tip for number in said_at(one.read, chart, n)) for n in near), (chart, tip)
            inside = plot.evaluate(
                "plot => { const t = plot.querySelector('.tip').getBoundingClientRect(); return t.left >= 0 && t.right <= innerWidth; }"
            )
            assert inside
        one.page.mouse.move(0, 0)
        assert plot.evaluate(TIP) is None
        plot.focus()
        last = len(xs) - 1
        for key, place in ((None, last), ("Home", 0), ("ArrowRight", min(1, last)), ("ArrowLeft", 0), ("End", last)):
            if key:
                one.page.keyboard.press(key)
            tip = plot.evaluate(TIP)
            assert all(number in tip for number in said_at(one.read, chart, place)), (chart, key, tip)
            assert re.match(r"\d{4}-\d\d-\d\d", tip)
        one.page.keyboard.press("Escape")
        assert plot.evaluate(TIP) is None
        assert set(series)
        plot.evaluate("plot => plot.blur()")


CONTRASTS = """() => {
  const parse = text => { const p = text.match(/[\\d.]+/g).map(Number); return p.length < 4 ? [...p, 1] : p; };
  const over = (a, b) => [0, 1, 2].map(i => a[i] * a[3] + b[i] * (1 - a[3])).concat([1]);
  const light = c => { const [r, g, b] = c.map(v => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode.parentElement;
    if (!walker.currentNode.textContent.trim() || ['SCRIPT', 'STYLE', 'TITLE', 'DESC', 'title', 'desc'].includes(node.nodeName)) continue;
    const style = getComputedStyle(node), chain = [];
    if (!node.getClientRects().length) continue;
    for (let n = node; n; n = n.parentElement) chain.unshift(parse(getComputedStyle(n).backgroundColor));
    const ground = chain.reduce((below, layer) => over(layer, below), [255, 255, 255, 1]);
    const ink = over(parse(node instanceof SVGElement ? style.fill : style.color), ground);
    const [a, b] = [light(ink.slice(0, 3)), light(ground.slice(0, 3))].sort((x, y) => y - x);
    found.push([(a + 0.05) / (b + 0.05), walker.currentNode.textContent.trim().slice(0, 40), node.className.baseVal ?? node.className]);
  }
  return found;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_can_be_read_in_light_and_dark(tab: Callable[..., Tab], scheme: str) -> None:
    one = tab("busy", color_scheme=scheme)
    found = one.run(CONTRASTS)
    assert len(found) > 300
    assert [f for f in found if f[0] < 4.5] == []
    ground = one.run("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", ground))) < 100) == (scheme == "dark")


@pytest.mark.parametrize("name", ALL)
def test_it_prints_on_paper(tab: Callable[..., Tab], name: str) -> None:
    """Light, whatever the screen is; nothing wider than the sheet."""
    one = tab(name, color_scheme="dark")
    one.page.emulate_media(media="print", color_scheme="dark")
    assert one.run("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    paper = one.page.pdf(format="A4", print_background=True)
    sheets = len(re.findall(rb"/Type\s*/Page\b(?!s)", paper))
    assert paper.startswith(b"%PDF")
    assert 1 <= sheets <= 16
    one.page.set_viewport_size({"width": 690, "height": 980})  # A4 less its margins, in CSS pixels
    assert one.run("document.documentElement.scrollWidth") <= 690


@pytest.mark.parametrize(
    ("mode", "width", "scheme"), [("light", 1120, "light"), ("dark", 1120, "dark"), ("narrow", 360, "light")]
)
def test_pictures_of_it_are_not_blank_and_not_big(tab: Callable[..., Tab], mode: str, width: int, scheme: str) -> None:
    one = tab("busy", width, color_scheme=scheme)
    picture = one.page.screenshot(full_page=True)
    assert 30_000 < len(picture) <= SCREENSHOT_BAR, mode


def test_without_scripts_it_is_all_there(tab: Callable[..., Tab]) -> None:
    one = tab("busy", java_script_enabled=False)
    assert one.page.locator("figure.chart").count() == len(one.read.data)
    assert one.page.locator(".tip").count() == 0


@pytest.mark.parametrize("name", PICTURES)
def test_the_pictures_of_the_docs_are_small(name: str) -> None:
    data = (PROJECT / "docs" / "images" / name).read_bytes()
    assert data.startswith(b"\x89PNG")
    assert 20_000 < len(data) <= PICTURE_BAR
