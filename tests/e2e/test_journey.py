"""Whole journeys in a real browser: find, contribute, compose, extend, export, play, and unattended runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pico
import pytest

if TYPE_CHECKING:
    from conftest import Shell

pytestmark = pytest.mark.browser
ENDLESS = "10M"  # tokens: more than a pico mix can train on during a test


@pytest.fixture(scope="module")
def pair(stocked: Shell) -> str:
    """An untrained mix of `code` and `law`."""
    return stocked.json(
        "compose", "pair", "--seed", "pico", "--experts", "code,law", "--preset", "merged", "--tokens", "0"
    )["mix"]


def settle(page: Any) -> None:
    """Wait until the page is complete; Streamlit may ignore clicks during its first run."""
    page.locator(".stApp[data-test-script-state='notRunning']").wait_for()


def queue(stocked: Shell, name: str) -> int:
    """Queue a composition that does not end during the test; return the number of its run."""
    options = ("--seed", "pico", "--experts", "code,law", "--tokens", ENDLESS)
    return stocked.json("compose", name, *options, "--queue")["run"]


def test_find_open_compose_watch_and_play(page: Any, url: str) -> None:
    page.goto(url)
    page.get_by_label("Search by meaning").fill("plaintiff court statute")
    page.keyboard.press("Enter")
    page.get_by_text("Nearest to").wait_for()
    page.get_by_role("link", name="law").first.click()

    page.get_by_role("link", name="Compose a mix with it").click()
    page.get_by_role("heading", name="Estimate").wait_for()
    settle(page)
    page.get_by_role("combobox").first.fill("code")
    page.keyboard.press("Enter")
    page.get_by_text("2 plus the seed").wait_for()
    page.keyboard.press("Escape")
    settle(page)
    page.get_by_test_id("stBaseButton-primary").filter(has_text="Compose").click()

    page.get_by_role("link", name="Open law-code@1").wait_for()
    assert "/run?id=" in page.url
    page.get_by_role("link", name="Play with it").click()
    page.get_by_label("Prompt").fill("court verdict")
    page.get_by_role("button", name="Generate").click()
    page.locator(".nm-shares").wait_for()
    assert page.locator(".nm-written .tok").count() > 0

    page.get_by_role("link", name="law-code@1").click()
    page.get_by_role("heading", name="law-code").wait_for()
    page.get_by_role("heading", name="Evaluation").wait_for()


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


def test_a_mix_is_extended_on_its_page_and_the_next_version_opens(page: Any, url: str, pair: str) -> None:
    page.goto(f"{url}/mix?ref={pair}")
    settle(page)
    page.get_by_role("button", name="Extend").click()
    page.get_by_role("slider").first.focus()
    page.keyboard.press("Home")
    page.get_by_role("combobox", name="Expert").fill("cooking")
    page.keyboard.press("Enter")
    settle(page)
    page.get_by_text("Evaluate it afterwards", exact=True).first.click()
    settle(page)
    page.get_by_role("button", name="Extend it").click()

    page.get_by_role("link", name="Open pair@2").click()
    page.get_by_role("heading", name="pair").wait_for()
    page.get_by_role("link", name="cooking").first.wait_for()
    page.get_by_role("link", name="pair@2 + cooking@1").wait_for()


def test_a_mix_is_exported_to_a_folder_from_its_page(page: Any, url: str, pair: str, tmp_path: Path) -> None:
    folder = tmp_path / "exported"
    page.goto(f"{url}/mix?ref={pair}")
    settle(page)
    page.get_by_role("button", name="Export").click()
    page.get_by_label("New folder").fill(str(folder))
    page.keyboard.press("Enter")
    settle(page)
    page.get_by_role("button", name="Export it").click()

    page.locator("dd").filter(has_text=str(folder)).wait_for()
    assert (folder / "config.json").is_file()


def test_a_folder_is_checked_then_contributed_then_found_in_the_catalog(
    page: Any, url: str, pico_anchored: Path, tmp_path: Path
) -> None:
    from playwright.sync_api import expect

    page.goto(f"{url}/contribute")
    settle(page)
    contribute = page.get_by_test_id("stBaseButton-primary").filter(has_text="Contribute")
    page.get_by_role("textbox", name="Folder on the registry's machine").fill(str(pico_anchored))
    page.keyboard.press("Enter")
    page.get_by_text("It fits pico").wait_for()
    page.get_by_text("Storage needed").wait_for()
    page.get_by_text("Still needed: a name, a licence, its domain.").wait_for()

    page.get_by_role("textbox", name="Name", exact=True).fill("proofs")
    page.keyboard.press("Enter")
    page.get_by_role("combobox", name="Licence").fill("MIT")
    page.keyboard.press("Enter")
    page.get_by_text("Still needed: its domain.").wait_for()
    data = pico.write_documents(tmp_path / "math.jsonl", "math")
    page.get_by_role("textbox", name="Files or folders of text").fill(str(data))
    contribute.click()

    page.get_by_role("link", name="Open proofs@1").wait_for()
    page.get_by_role("link", name="Catalog").first.click()
    page.get_by_label("Search by meaning").fill("theorem proof lemma")
    page.keyboard.press("Enter")
    page.get_by_text("Nearest to").wait_for()
    expect(page.locator("[class*='st-key-card-'] a").first).to_contain_text("proofs")


def test_the_same_click_in_two_browsers_makes_one_run_that_both_see(
    new_page: Callable[[], Any], url: str
) -> None:
    both = new_page(), new_page()
    for page in both:
        page.goto(f"{url}/compose?seed=pico&experts=code@1,law@1")
        page.get_by_text("2 plus the seed").wait_for()
        page.get_by_text("Merged trunk", exact=True).click()
        page.get_by_text("What to train").wait_for()
        page.get_by_role("slider").first.focus()
        page.keyboard.press("End")  # it must not end before the click in the other window
        page.get_by_text("--tokens 10").wait_for()
        settle(page)
    for page in both:
        page.get_by_test_id("stBaseButton-primary").filter(has_text="Compose").click()
    for page in both:
        page.wait_for_url("**/run?id=*")
        # The first: while a live page is drawn again, the old and the new button exist together for a moment.
        page.get_by_role("button", name="Cancel").first.wait_for()
    assert both[0].url == both[1].url
    both[0].get_by_role("button", name="Cancel").first.click()
    for page in both:
        page.get_by_role("button", name="Try again").wait_for()


def test_what_a_contributor_writes_on_a_card_is_inert(
    page: Any, url: str, stocked: Shell, pico_anchored: Path, tmp_path: Path
) -> None:
    hostile = "<script>window.trapped = 1</script><img src=x onerror='window.trapped = 1'>"
    link = "[x](javascript:window.trapped=1)"
    data = pico.write_documents(tmp_path / "trap.jsonl", "cooking")
    options = ("--seed", "pico", "--license", "MIT", "--data", data, "--description", f"{hostile} {link}")
    stocked.json("contribute", "trap", pico_anchored, *options)
    for address in (url, f"{url}/expert?ref=trap@1", f"{url}/compose?seed=pico&experts=trap@1"):
        page.goto(address)
        page.get_by_text(f"{hostile} {link}").first.wait_for()
        settle(page)
        assert page.locator("a[href^='javascript:'], img[onerror], .stMain script").count() == 0
        assert page.evaluate("window.trapped") is None
