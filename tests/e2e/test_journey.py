"""Whole journeys in a real browser: from finding an expert to playing with its mix, and runs that are left alone."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from conftest import Shell

pytestmark = pytest.mark.browser
TIMEOUT_MS = 120_000
ENDLESS = "10M"  # tokens: more than a pico mix trains in a test


@pytest.fixture(scope="module")
def url(stocked: Shell) -> Iterator[str]:
    """The web app with its worker on the stocked registry, started as a user starts it."""
    server = stocked.start("ui", "--no-browser", "--json")
    assert server.stdout is not None and server.stderr is not None
    address = json.loads("".join(iter(lambda: server.stdout.readline(), "}\n")) + "}")["url"]
    for line in server.stderr:
        if address in line:  # Streamlit says so once it listens
            break
    yield address
    server.send_signal(signal.SIGINT)
    server.communicate()
    assert server.returncode == 0


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    context.set_default_timeout(TIMEOUT_MS)
    page = context.new_page()
    page.on("dialog", lambda dialog: pytest.fail(f"a dialog opened: {dialog.message}"))
    yield page
    context.close()


def settle(page: Any) -> None:
    """Wait until the page is drawn in full; Streamlit may drop what is clicked during its first run."""
    page.locator(".stApp[data-test-script-state='notRunning']").wait_for()


def queue(stocked: Shell, name: str) -> int:
    """Queue a composition that does not end by itself; its run's number."""
    options = ("--seed", "pico", "--experts", "code,law", "--tokens", ENDLESS)
    return stocked.json("compose", name, *options, "--queue")["run"]


def test_find_open_compose_watch_and_play(page: Any, url: str) -> None:
    page.goto(url)
    page.get_by_label("Search by meaning").fill("plaintiff court statute")
    page.keyboard.press("Enter")
    page.get_by_text("Nearest to").wait_for()
    page.get_by_role("link", name="law").first.click()

    page.get_by_role("link", name="Compose a mix with it").click()
    page.get_by_text("What you will get").wait_for()
    settle(page)
    page.get_by_role("combobox").first.fill("code")
    page.keyboard.press("Enter")
    page.get_by_text("2 beside the seed").wait_for()
    page.keyboard.press("Escape")
    page.get_by_role("slider").first.focus()
    page.keyboard.press("Home")
    page.get_by_text("--tokens 0").wait_for()
    settle(page)
    page.get_by_test_id("stBaseButton-primary").filter(has_text="Compose").click()

    page.get_by_role("link", name="Open law-code@1").wait_for()
    assert "/run?id=" in page.url
    page.get_by_role("link", name="Play with it").click()
    page.get_by_label("Prompt").fill("court verdict")
    page.get_by_role("heading", name="Playground").click()  # leaving the field submits it
    page.get_by_role("button", name="Write on").click()
    page.locator(".nm-shares").wait_for()
    assert page.locator(".nm-written .tok").count() > 0

    page.get_by_role("link", name="law-code@1").click()
    page.get_by_role("heading", name="law-code").wait_for()
    page.get_by_role("heading", name="How good it is").wait_for()


def test_a_reload_in_the_middle_finds_the_run_again_and_it_is_cancelled(
    page: Any, url: str, stocked: Shell
) -> None:
    run = queue(stocked, "endless")
    page.goto(f"{url}/run?id={run}")
    page.get_by_text("Fine-tuning").first.wait_for()
    page.reload()
    page.get_by_text("Fine-tuning").first.wait_for()
    page.locator(".stVegaLiteChart").wait_for()
    page.get_by_role("button", name="Cancel").click()
    page.get_by_role("button", name="Try again").wait_for()
    assert stocked.json("runs", "show", run)["state"] == "cancelled"


def test_a_deep_link_may_be_the_first_thing_that_is_opened(page: Any, url: str) -> None:
    page.goto(f"{url}/run?id=999")
    page.get_by_text("Not found").wait_for()
