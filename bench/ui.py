"""Time the web app in a browser with many experts: `python -m bench.ui HOME`, after `python -m bench.crowd HOME`.

Set-up: local headless Chromium, a window of 1280 × 900, no worker, no run except that of the last figure.

Timings by the clock of this process:
- start: from the start of `nexusmix ui` until it reports that it listens;
- first paint: from opening the address of a newly started server, with an empty browser cache, until the browser
  paints something (first contentful paint);
- first cards: the same until a page of 12 cards and the page numbers are visible;
- progress: from the report of the work (`ui.queue.child.Reporter`) until the run's page shows it.

Timings in the page start at the browser's time stamp of the key or click. They end one frame after the expected
content is visible and the page's script has finished:
- search: Enter in the search box → the caption contains the query and 12 cards show scores;
- switch: a click on a page's link → its title; on the map also its points, in the catalog also its cards.

- stop: a click on Stop while text is generated → no cursor at the end of the text;
- cancel: a click on Cancel while a mix is fine-tuned → the button "Try again";
- layout shift: CLS of each page, opened by its address.

The last three need a registry with a mix, as the demo's: `--mixes HOME`.

First-time work of a server (loading the embedder, importing a page) is listed separately.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from bench.browser import CHROMIUM_FLAGS, CHROMIUM_PATH, served, wait_for_script

QUERIES = """
contracts and court cases; parse a JSON file; linear algebra proofs; C++ templates; german poetry; chess openings;
dosage of a medicine; sql joins; weather at sea; invoices in french; harmony of a fugue; polymer chemistry; theatre;
kernel modules; summaries of meetings; garden plants; customer support; anatomy of the hand; compilers; stock trade
""".replace("\n", " ").split(";")
# The links of the header, with the titles of their pages.
PAGES = {
    "Map": "Map of domains",
    "Compose": "Compose a mix",
    "Mixes": "Mixes",
    "Lens": "Lens",
    "Play": "Playground",
    "Runs": "Runs",
    "Contribute": "Contribute an expert",
    "Catalog": "What should your model be good at?",
}
BARS = {
    "first paint": 1.5,
    "first cards": 1.5,
    "search, first": 1.0,
    "search": 0.3,
    "switch": 0.5,
    "progress": 3.0,
    "stop": 0.5,
    "cancel": 2.0,
}
MOST_SHIFT = 0.1
SHIFTS = """
window.shifted = 0;
new PerformanceObserver((list) => {
  for (const entry of list.getEntries()) if (!entry.hadRecentInput) window.shifted += entry.value;
}).observe({ type: 'layout-shift', buffered: true });
"""
WIDTH, HEIGHT = 1280, 900
TIMEOUT_MS = 60_000

Times = dict[str, list[float]]


ENDED = "document.querySelector('.stApp')?.dataset.testScriptState === 'notRunning'"
CARDS = "document.querySelectorAll('[class*=st-key-card-] a').length === 12"
TIMER = """([event, key]) => {
  window.took = null;
  const isDone = () => %s;
  const begin = (happened) => {
    if (key && happened.key !== key) return;
    document.removeEventListener(event, begin, true);
    const look = () => requestAnimationFrame(isDone() ? end : look);
    const end = () => { window.took = performance.now() - happened.timeStamp; };
    look();
  };
  document.addEventListener(event, begin, true);
}"""


def main() -> int:
    """Measure, and print a Markdown table. With --json, also write every single time."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("home", type=Path)
    parser.add_argument("--starts", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=5, help="visits per page")
    parser.add_argument("--reports", type=int, default=10)
    parser.add_argument("--mixes", type=Path, help="a registry with mixes, for stop, cancel and layout shift")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--browser", default=CHROMIUM_PATH)
    options = parser.parse_args()
    from playwright.sync_api import sync_playwright

    times: Times = {}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=options.browser, args=CHROMIUM_FLAGS)
        for start in range(options.starts):
            with served(options.home) as app:
                times.setdefault("start", []).append(app.seconds)
                page = _window(browser)
                painted, complete = _open_catalog(page, app.url)
                times.setdefault("first paint", []).append(painted)
                times.setdefault("first cards", []).append(complete)
                if start == options.starts - 1:
                    _switch(page, options.rounds, times)
                    _search(page, times)
                    _progress(page, app.url, options.home, options.reports, times)
                page.context.close()
        try:
            if options.mixes:
                _on_mixes(browser, options.mixes, options.rounds, times)
        finally:  # a failure must not lose what was measured
            if options.json:
                options.json.write_text(json.dumps(times, indent=1))
            _print(times)
        browser.close()
    return 0


def _window(browser: Any) -> Any:
    context = browser.new_context(viewport={"width": WIDTH, "height": HEIGHT})
    context.set_default_timeout(TIMEOUT_MS)
    return context.new_page()


def _open_catalog(page: Any, url: str) -> tuple[float, float]:
    """Seconds until the browser paints something, and until the first page of cards is complete."""
    began = time.monotonic()
    page.goto(url, wait_until="commit")
    page.wait_for_function(f"{CARDS} && document.querySelector('[data-testid=stPagination]')")
    complete = time.monotonic() - began
    painted: float = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
    return painted / 1000, complete


def _took(page: Any, act: Callable[[], object], done: str, event: str, key: str = "") -> float:
    """Seconds from an event that `act` causes until the JavaScript expression `done` is true in an idle page."""
    wait_for_script(page)
    page.evaluate(TIMER % f"{done} && {ENDED}", [event, key])
    act()
    page.wait_for_function("window.took !== null")
    milliseconds: float = page.evaluate("window.took")
    return milliseconds / 1000


def _search(page: Any, times: Times) -> None:
    box = page.get_by_label("Search by meaning")
    for place, query in enumerate(map(str.strip, QUERIES)):
        box.fill(query)
        done = f"{CARDS} && document.querySelectorAll('.nm-score').length === 12 && {_says(query)}"
        seconds = _took(page, lambda: page.keyboard.press("Enter"), done, "keydown", "Enter")
        times.setdefault("search" if place else "search, first", []).append(seconds)


def _says(text: str) -> str:
    return f"document.querySelector('.stMain').textContent.includes({json.dumps(text)})"


def _switch(page: Any, rounds: int, times: Times) -> None:
    header = page.get_by_test_id("stTopNavLinkContainer")
    for round_ in range(rounds + 1):
        for name, title in PAGES.items():
            done = f"document.querySelector('h1')?.textContent.trim() === {json.dumps(title)}"
            done += {
                "Map": " && document.querySelector('.js-plotly-plot .gl-canvas')",
                "Catalog": f" && {CARDS}",
            }.get(name, "")
            link = header.get_by_role("link", name=re.compile(f"{name}$"))
            times.setdefault(f"switch to {name}" + ("" if round_ else ", first"), []).append(
                _took(page, link.click, done, "click")
            )
    for round_ in range(rounds + 1):
        card = page.locator("[class*='st-key-card-'] a").first
        times.setdefault("switch to an expert" + ("" if round_ else ", first"), []).append(
            _took(page, card.click, f"document.querySelector('h1') && {_says('Stored weights')}", "click")
        )
        page.go_back()
        page.wait_for_function(CARDS)


def _progress(page: Any, url: str, home: Path, reports: int, times: Times) -> None:
    from registry.home import open_registry
    from registry.queue import claims, runs
    from ui.queue.child import Reporter

    registry = open_registry(home)
    runs.submit(registry, "compose", {"recipe": {"name": "timed", "seed": "smol", "experts": []}})
    run = claims.claim(registry, "bench", 3600.0)
    assert run is not None
    draw = random.Random(0)
    with Reporter(registry, run.fence) as reporter:
        reporter.progress("training", 0, 100)
        page.goto(f"{url}/run?id={run.id}")
        page.get_by_text("Training: 0 %").wait_for()
        for number in range(1, reports + 1):
            time.sleep(draw.random() * 3)  # at any phase of the page's and the reporter's polling

            began = time.monotonic()
            reporter.progress("training", number, 100)
            page.get_by_text(f"Training: {number} %").wait_for()
            times.setdefault("progress", []).append(time.monotonic() - began)
    claims.finish(registry, run.fence, "cancelled")
    registry.engine.dispose()


def _on_mixes(browser: Any, home: Path, rounds: int, times: Times) -> None:
    """Measure the layout shift of each page, and the time until Stop and Cancel have an effect."""
    from bench.screenshots import _addresses
    from ui.queue.worker import start_local
    from ui.web.knobs import MOST_TOKENS

    addresses = _addresses(home)
    with served(home) as app:
        for name, address in addresses.items():
            page = _window(browser)
            page.add_init_script(SHIFTS)
            page.goto(app.url + address)
            page.locator(".stMainBlockContainer h1").first.wait_for()
            wait_for_script(page)
            page.wait_for_timeout(1_500)
            print(f"layout shift of {name}: {page.evaluate('window.shifted'):.3f}", flush=True)
            page.context.close()
        page = _window(browser)
        page.goto(f"{app.url}{addresses['playground']}&prompt=def+main&length={MOST_TOKENS}")
        for _ in range(rounds):
            wait_for_script(page)
            page.get_by_role("button", name="Generate").click()
            page.wait_for_function("document.querySelectorAll('.nm-written .tok').length > 20")
            # Streamlit has a button of this name in its header.
            stop = page.get_by_test_id("stMainBlockContainer").get_by_role("button", name="Stop")
            times.setdefault("stop", []).append(_clicked(page, stop, "!document.querySelector('.nm-caret')"))
        worker = start_local(home)
        try:
            for number in range(rounds):
                run = _endless(home, number)
                page.goto(f"{app.url}/run?id={run}")
                page.get_by_text("Fine-tuning").first.wait_for()
                again = (
                    "[...document.querySelectorAll('button')].some(b => b.textContent.includes('Try again'))"
                )
                cancel = page.get_by_role("button", name="Cancel").first
                times.setdefault("cancel", []).append(_clicked(page, cancel, again))
        finally:
            worker.terminate()
            worker.wait()
        page.context.close()


def _endless(home: Path, number: int) -> int:
    """Queue a composition whose fine-tune takes longer than the measurement; return the run's number."""
    from registry.catalog.queries import list_refs, list_seeds
    from registry.home import open_registry
    from ui.queue.jobs import submit

    with open_registry(home) as registry:
        seed = list_seeds(registry)[0].name
        recipe = {"name": "endless", "seed": seed, "experts": list_refs(registry, seed=seed)[:2]}
        training = {"tokens": 10_000_000, "random_seed": number}
        recipe |= {"router": "nexus", "trunk_merge": {"method": "mean"}, "training": training}
        return submit(registry, "compose", {"recipe": recipe}).id


def _clicked(page: Any, button: Any, done: str) -> float:
    """Seconds from a click until the JavaScript expression is true."""
    button.wait_for()
    page.evaluate(TIMER % done, ["click", ""])
    button.click()
    page.wait_for_function("window.took !== null")
    return float(page.evaluate("window.took")) / 1000


def _print(times: Times) -> None:
    switches = [
        s for name, each in times.items() if name.startswith("switch") and "first" not in name for s in each
    ]
    print("| | n | median | p95 | worst | target |\n|---|---|---|---|---|---|")
    for name, seconds in {**times, "switch": switches}.items():
        row = [name, str(len(seconds))]
        row += [
            f"{1000 * value:.0f} ms"
            for value in (np.median(seconds), np.quantile(seconds, 0.95), max(seconds))
        ]
        bar = BARS.get(name)  # the target of all switches applies to their p95
        print("| " + " | ".join([*row, "" if bar is None else f"{1000 * bar:.0f} ms"]) + " |")


if __name__ == "__main__":
    sys.exit(main())
