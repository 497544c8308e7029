"""The web app in a real browser: find, open, share an address, on a wide and on a narrow window."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from conftest import Shell

pytestmark = pytest.mark.browser
TIMEOUT_MS = 60_000


@pytest.fixture(scope="module")
def url(stocked: Shell) -> Iterator[str]:
    """The address of the web app on the stocked registry, started as a user starts it."""
    server = stocked.start("ui", "--no-browser", "--json")
    assert server.stdout is not None and server.stderr is not None
    address = json.loads("".join(iter(lambda: server.stdout.readline(), "}\n")) + "}")["url"]
    for line in server.stderr:
        if address in line:  # Streamlit says so once it listens
            break
    yield address
    server.send_signal(signal.SIGINT)
    assert server.wait() == 0


@pytest.fixture
def page(browser: Any, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Any]:
    """A window of its own; where NEXUSMIX_SCREENSHOTS names a folder, its last sight is kept there."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    context.set_default_timeout(TIMEOUT_MS)
    page = context.new_page()
    page.on("dialog", lambda dialog: pytest.fail(f"a dialog opened: {dialog.message}"))
    yield page
    if folder := os.environ.get("NEXUSMIX_SCREENSHOTS"):
        page.screenshot(path=Path(folder) / f"{request.node.name}.png")
    context.close()


def expect_cards(page: Any, *names: str) -> None:
    """Wait until the first cards bear these names, in this order."""
    from playwright.sync_api import expect

    links = page.locator("[class*='st-key-card-'] a")
    for place, name in enumerate(names):
        expect(links.nth(place)).to_contain_text(name, timeout=TIMEOUT_MS)


def settle(page: Any) -> None:
    """Wait for the cards, their links and the style sheet, which Streamlit loads one after the other."""
    page.get_by_text("3 experts by name").wait_for()
    page.get_by_role("link", name="code").wait_for()
    page.wait_for_function("getComputedStyle(document.querySelector('.st-key-cards')).display === 'grid'")


def overflow(page: Any) -> int:
    """How many pixels the page is wider than its window."""
    return page.evaluate("document.documentElement.scrollWidth - window.innerWidth")


def test_a_visitor_searches_opens_an_expert_and_comes_back(page: Any, url: str) -> None:
    page.goto(url)
    page.get_by_text("3 experts by name").wait_for()
    expect_cards(page, "code", "cooking", "law")

    page.get_by_label("Search by meaning").fill("plaintiff court statute")
    page.keyboard.press("Enter")
    page.get_by_text("Nearest to").wait_for()
    expect_cards(page, "law")
    assert "q=plaintiff" in page.url

    page.get_by_role("link", name="law").click()
    page.get_by_role("heading", name="law").wait_for()
    assert page.url.endswith("/expert?ref=law%401")
    page.get_by_text("Nearest domains").wait_for()
    page.get_by_role("link", name="code").wait_for()

    page.go_back()
    page.get_by_text("Nearest to").wait_for()
    assert page.get_by_label("Search by meaning").input_value() == "plaintiff court statute"


def test_a_card_opens_wherever_it_is_clicked_and_by_the_keyboard(page: Any, url: str) -> None:
    page.goto(url)
    settle(page)
    page.locator("[class*='st-key-card-cooking']").click()
    page.get_by_role("heading", name="cooking").wait_for()
    page.goto(url)
    settle(page)
    page.get_by_role("link", name="code").focus()
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="code").wait_for()


def test_addresses_of_a_search_and_of_an_expert_can_be_shared(page: Any, url: str) -> None:
    page.goto(f"{url}/?q=simmer+garlic+broth")
    page.get_by_text("Nearest to").wait_for()
    expect_cards(page, "cooking")
    page.goto(f"{url}/expert?ref=law%401")
    page.get_by_text("the seed's own (anchored)").wait_for()


def test_the_bytes_of_an_expert_are_verified_on_request(page: Any, url: str) -> None:
    page.goto(f"{url}/expert?ref=code%401")
    page.get_by_role("button", name="Verify now").first.click()
    page.get_by_text("Every byte is what its digest says.").wait_for()


def test_an_expert_that_does_not_exist_has_a_page_that_says_so(page: Any, url: str) -> None:
    page.goto(f"{url}/expert?ref=nobody")
    page.get_by_text("Not found").wait_for()
    page.get_by_role("link", name="Catalog").first.click()
    page.get_by_text("3 experts by name").wait_for()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_pages_fit_the_window_in_light_and_dark(page: Any, url: str, width: int, scheme: str) -> None:
    page.set_viewport_size({"width": width, "height": 844})
    page.emulate_media(color_scheme=scheme)
    page.goto(url)
    page.get_by_text("3 experts by name").wait_for()
    assert overflow(page) <= 0
    background = page.evaluate("getComputedStyle(document.querySelector('.stApp')).backgroundColor")
    assert background == {"light": "rgb(251, 251, 253)", "dark": "rgb(16, 17, 24)"}[scheme]
    page.goto(f"{url}/expert?ref=law%401")
    page.get_by_text("Stored bytes").wait_for()
    assert overflow(page) <= 0
