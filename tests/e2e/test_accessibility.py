"""Every page in a real browser: what hinders people, by axe-core, and elements that move while the page loads."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import pytest

from registry.catalog.publish import publish_mix
from registry.catalog.queries import get_mix, record_evaluation
from registry.home import open_registry
from registry.queue import claims, runs

if TYPE_CHECKING:
    from conftest import Shell

pytestmark = pytest.mark.browser

PAIR = "code@1,law@1"
HINDERING = ("serious", "critical")
# Cumulative layout shift is "good" below 0.1.
MOST_SHIFT = 0.1
SHIFTS = """window.shifted = 0; new PerformanceObserver((list) => {
  for (const entry of list.getEntries()) if (!entry.hadRecentInput) window.shifted += entry.value;
}).observe({ type: 'layout-shift', buffered: true })"""
OPTIONS = {"resultTypes": ["violations"], "elementRef": False, "iframes": False}
HEADER = ("Catalog", "Map", "Compose", "Mixes", "Lens", "Play", "Runs", "Contribute", "Log")
# The pages that the header does not lead to, and pages that a query fills.
FILLED = (
    "?q=plaintiff+court;simmer+garlic",
    "expert?ref=law@1",
    f"compose?seed=pico&experts={PAIR}&kind=merged",
    "mix?ref=pair@1",
    "compare?mixes=pair@1,single@1",
    "lens?mix=pair@1&text=def+main",
    "run?id=1",
    "add-seed",
)


def findings(page: Any, name: str) -> list[str]:
    """The findings on the open page when it is complete: axe-core's, and a layout shift since the last call."""
    from axe_playwright_python.sync_playwright import Axe

    page.wait_for_function(
        "document.querySelector('.stApp[data-test-script-state=notRunning] h1')"
        " && !document.querySelector('[data-testid=stSkeleton]')"
    )
    found = Axe().run(page, options=OPTIONS).response["violations"]
    shifted = page.evaluate("(() => { const all = window.shifted; window.shifted = 0; return all; })()")
    moved = [f"{name}: layout shift {shifted:.2f}"] if shifted > MOST_SHIFT else []
    return moved + [
        f"{name}: {each['id']}: {node['html'][:200]}: {node['failureSummary']}"
        for each in found
        if each["impact"] in HINDERING
        for node in each["nodes"]
    ]


def walk(page: Any, names: Sequence[str]) -> list[str]:
    """Go to pages by the header's links, without loading the app again, and return the findings on them."""
    found = []
    for name in names:
        if name != names[0]:  # it is open already
            before = page.title()
            page.get_by_test_id("stTopNavLinkContainer").get_by_role("link", name=name, exact=True).click()
            page.wait_for_function("title => document.title !== title", arg=before)
        found += findings(page, name)
    return found


@pytest.fixture(scope="module")
def worn(stocked: Shell) -> None:
    """The stocked registry with the evaluated mixes pair@1 and, from the same blobs, single@1; and a finished run."""
    options = ("--seed", "pico", "--experts", PAIR, "--preset", "merged", "--tokens", "0")
    stocked.json("compose", "pair", *options)
    with open_registry(stocked.home, embedder="hashing:64") as registry:
        pair = get_mix(registry, "pair@1")
        blobs = {"manifest": pair.manifest, "lock": pair.lock, "blobs": [pair.manifest, pair.lock]}
        publish_mix(registry, "single", seed="pico", experts=["code@1", "law@1"], **blobs)
        for name in ("pair@1", "single@1"):
            record_evaluation(registry, name, evaluation(PAIR.split(",")))
        runs.submit(registry, "measure", {"expert": "law@1"})
        run = claims.claim(registry, "worker", lease_seconds=60)
        assert run is not None
        claims.report(registry, run.fence, log="measuring\n")
        claims.finish(registry, run.fence, state="succeeded", result={"expert": "law@1"})


def evaluation(experts: list[str]) -> dict[str, Any]:
    """An evaluation with routing in two blocks."""
    scores = {"seed": 3.0, "expert": 2.0, "dense_merging": 2.5, "mix": 2.125}
    shares = {ref: 1 / len(experts) for ref in experts}
    return {
        "bits_per_byte": dict.fromkeys(experts, scores),
        "mean": scores,
        "routing": dict.fromkeys(experts, shares),
        "routing_by_layer": {each: {ref: [part] * 2 for ref, part in shares.items()} for each in experts},
        "text": {each: {"sha256": "a", "bytes": 60_000} for each in experts},
    }


@pytest.fixture
def empty_url(shell: Shell) -> Iterator[str]:
    """The address of the web app on an empty registry."""
    server = shell.start("ui", "--no-browser", "--no-worker", "--json")
    yield shell.url_of(server)
    server.send_signal(signal.SIGINT)
    server.communicate()


def test_no_page_of_a_stocked_registry_hinders_anybody_or_moves_while_it_loads(
    page: Any, worn: None, url: str
) -> None:
    page.add_init_script(SHIFTS)
    page.goto(url)
    found = walk(page, HEADER)
    for address in FILLED:
        page.goto(f"{url}/{address}")
        found += findings(page, address)
    assert found == []


def test_no_page_of_an_empty_registry_hinders_anybody_or_moves_while_it_loads(
    page: Any, empty_url: str
) -> None:
    page.add_init_script(SHIFTS)
    page.goto(empty_url)
    assert walk(page, HEADER) == []
