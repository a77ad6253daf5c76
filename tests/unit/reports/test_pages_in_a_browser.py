"""Reports as a person opens them: in a headless browser, without network."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from pdcache.reports import Slo, compare, read_groups, write_comparison, write_report

Make = Callable[..., Path]
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Debian's browser; Playwright's own is not fetched."""
    path = shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        pytest.fail("there is no chromium: run scripts/setup.sh, or apt-get install chromium")
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=list(FLAGS))
        yield started
        started.close()


@pytest.fixture
def opened(browser: Browser) -> Iterator[Callable[..., Page]]:
    """Open a file; at the end it must have said nothing and asked the network for nothing."""
    said: list[str] = []
    pages: list[Page] = []

    def open_(path: Path, width: int = 1280, scheme: str = "light") -> Page:
        page = browser.new_page(viewport={"width": width, "height": 900})
        page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on(
            "request",
            lambda request: request.url.startswith("file://") or said.append(request.url),
        )
        page.goto(path.as_uri())
        pages.append(page)
        return page

    yield open_
    for page in pages:
        page.close()
    assert said == []


def report_of(made: Make, **changes: object) -> Path:
    """The page of a made run."""
    folder = made(sessions=4, turns=4, threshold=256, fail=((3, 3),), **changes)
    write_report(folder, Slo.parse("ttft=300ms,tpot=12ms"))
    return folder / "report.html"


def test_a_report_opens_with_all_its_plots(
    made: Make, opened: Callable[..., Page], tmp_path: Path
) -> None:
    page = opened(report_of(made))
    assert {svg.get_attribute("id") for svg in page.query_selector_all("svg.chart")} == {
        "reuse", "ttft", "waterfall", "ttft-spread", "tpot-spread", "goodput", "timeline",
    }  # fmt: skip
    for name, marks in {
        "#reuse rect.device": 3, "#reuse line.ceiling": 3, "#ttft circle.p50": 4,
        "#waterfall rect.loss": 1, "#waterfall rect.served": 1, "#timeline path.line": 5,
        "#goodput circle": 14, "#ttft-spread path.line": 2,
    }.items():  # fmt: skip
        assert len(page.query_selector_all(name)) == marks, name
    assert "below threshold" in page.inner_text("p.headline")
    assert "Failed requests: 1 (http_503 1)" in page.inner_text("p.alert")
    picture = page.screenshot(path=str(tmp_path / "report.png"), full_page=True)
    assert len(picture) > 50_000


def test_bars_are_as_high_as_their_numbers(made: Make, opened: Callable[..., Page]) -> None:
    page = opened(report_of(made))
    heights = page.eval_on_selector_all(
        "#reuse rect.device, #reuse rect.prompt",
        "bars => bars.map(bar => [bar.dataset.tip, bar.getBoundingClientRect().height])",
    )
    scale = [height / int(tip.split()[-2 if "prompt" in tip else 2].replace(",", ""))
             for tip, height in heights]  # fmt: skip
    assert max(scale) / min(scale) < 1.02


def test_a_mark_tells_its_number_under_the_pointer(made: Make, opened: Callable[..., Page]) -> None:
    page = opened(report_of(made))
    assert not page.is_visible("#tip.on")
    page.hover("#waterfall rect.loss")
    page.wait_for_selector("#tip.on")
    assert page.inner_text("#tip").startswith("below threshold: -")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_it_fits_narrow_screens_and_both_schemes(
    made: Make, opened: Callable[..., Page], width: int, scheme: str
) -> None:
    page = opened(report_of(made), width, scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    ground, text = page.evaluate(
        "() => [getComputedStyle(document.body).backgroundColor,"
        " getComputedStyle(document.querySelector('h1')).color].map("
        "colour => colour.match(/\\d+/g).map(Number).reduce((a, b) => a + b) / 3)"
    )
    assert (ground < 60 < 180 < text) if scheme == "dark" else (text < 60 < 180 < ground)


def test_names_in_the_data_stay_words(made: Make, opened: Callable[..., Page]) -> None:
    page = opened(report_of(made, spec={"label": "<script>alert(1)</script><b id=evil>"}))
    assert page.query_selector("#evil") is None
    assert "<script>alert(1)</script>" in page.inner_text("main")


def test_a_page_tells_the_topology_and_the_command_lines(
    made: Make, opened: Callable[..., Page]
) -> None:
    page = opened(report_of(made))
    for summary in page.query_selector_all("summary"):
        summary.click()
    text = page.inner_text("main")
    assert "mode: full_offload\nhicache:\n  page_size: " in text
    assert "OMP_NUM_THREADS=1" in text
    assert "python -m sglang.launch_server --page-size 64" in text


def test_a_run_without_any_answer_still_has_a_page(made: Make, opened: Callable[..., Page]) -> None:
    folder = made(sessions=1, turns=1, fail=((0, 1),))
    write_report(folder)
    page = opened(folder / "report.html")
    assert "nothing to reuse" in page.inner_text("p.headline")


def test_a_comparison_opens_with_its_plots(
    made: Make, opened: Callable[..., Page], tmp_path: Path
) -> None:
    folders = [
        made(f"{name}/{repetition}", seed=repetition, **changes)
        for name, changes in {"prefill": {"mode": "prefill_only"}, "full": {}}.items()
        for repetition in range(3)
    ]  # fmt: skip
    write_comparison(compare(read_groups(folders)), tmp_path / "both", "both modes")
    page = opened(tmp_path / "both" / "comparison.html")
    assert len(page.query_selector_all("#ttft circle")) == 8
    assert len(page.query_selector_all("#losses rect.served")) == 2
    assert "came soonest in full" in page.inner_text("p.headline")
