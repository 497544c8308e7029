"""Forms in a real browser: the first click after typing works, an invalid field keeps the other inputs, and journeys
by the keyboard alone and on a phone.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pico
import pytest

if TYPE_CHECKING:
    from conftest import Shell

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def pair(stocked: Shell) -> str:
    """An untrained mix of `code` and `law`."""
    return stocked.json(
        "compose", "pair", "--seed", "pico", "--experts", "code,law", "--preset", "merged", "--tokens", "0"
    )["mix"]


def settle(page: Any) -> None:
    """Wait until the page is complete; Streamlit may ignore clicks during its first run."""
    page.locator(".stApp[data-test-script-state='notRunning']").wait_for()


def test_the_first_click_after_typing_writes_on(page: Any, url: str, pair: str) -> None:
    page.goto(f"{url}/playground?mix={pair}")
    settle(page)
    page.get_by_role("button", name="Generate").click()
    page.get_by_text("Enter a prompt first").wait_for()
    page.get_by_label("Prompt").fill("court verdict")
    page.get_by_role("button", name="Generate").click()
    page.locator(".nm-written .tok").first.wait_for()


def test_the_first_click_after_typing_proposes(page: Any, url: str) -> None:
    page.goto(f"{url}/compose")
    settle(page)
    page.get_by_role("button", name="Propose experts from samples").click()
    page.get_by_role("textbox", name="What should the mix be good at?").fill(
        pico.domain_documents("law", 1)[0]
    )
    page.get_by_role("button", name="Propose", exact=True).click()
    page.locator("[class*='st-key-row-law']").first.wait_for()


def test_the_first_click_after_typing_exports_and_a_bad_folder_says_so_there(
    page: Any, url: str, pair: str, tmp_path: Path
) -> None:
    page.goto(f"{url}/mix?ref={pair}")
    settle(page)
    page.get_by_role("button", name="Export").click()
    page.get_by_label("New folder").fill("/proc/new")
    page.get_by_role("button", name="Export it").click()
    page.get_by_text("a system folder that is never read").wait_for()
    page.get_by_role("heading", name="Evaluation").wait_for()
    page.get_by_label("New folder").fill(str(tmp_path / "first"))
    page.get_by_role("button", name="Export it").click()
    page.locator("dd").filter(has_text=str(tmp_path / "first")).wait_for()


def test_the_first_click_after_typing_points_an_alias(page: Any, url: str) -> None:
    page.goto(f"{url}/expert?ref=cooking%401")
    settle(page)
    opens = page.get_by_role("button", name="Point an alias to this version")
    opens.evaluate("button => button.scrollIntoView({ block: 'center' })")  # room for its form
    opens.click()
    page.get_by_role("textbox", name="Alias").fill("no good")
    page.get_by_role("button", name="Set alias").click()
    page.get_by_test_id("stAlert").wait_for()
    page.get_by_text("Stored weights").wait_for()
    page.get_by_role("textbox", name="Alias").fill("stable")
    page.get_by_role("button", name="Set alias").click()
    page.get_by_text("cooking@stable").wait_for()


def test_a_bad_field_loses_nothing_and_the_first_click_after_mending_it_contributes(
    page: Any, url: str, pico_expert: Path, tmp_path: Path
) -> None:
    text = pico.write_documents(tmp_path / "sea.jsonl", "cooking")
    page.goto(f"{url}/contribute")
    settle(page)
    page.get_by_role("textbox", name="Folder on the registry's machine").fill(str(pico_expert))
    page.get_by_label("Description").fill("Speaks of the sea.")
    page.get_by_role("combobox", name="Licence").fill("Apache-9")
    page.keyboard.press("Enter")
    page.get_by_text("unknown licence").wait_for()
    page.get_by_role("textbox", name="Name", exact=True).fill("../sea")
    page.get_by_role("button", name="Contribute").click()
    page.get_by_text("Still needed: a name, a licence, its domain.").wait_for()
    page.get_by_text("It fits pico.").wait_for()
    assert page.get_by_label("Description").input_value() == "Speaks of the sea."
    assert page.get_by_role("textbox", name="Name", exact=True).input_value() == "../sea"

    page.get_by_role("textbox", name="Name", exact=True).fill("sea")
    page.get_by_role("combobox", name="Licence").fill("MIT")
    page.keyboard.press("Enter")
    settle(page)
    page.get_by_role("textbox", name="Files or folders of text").fill(str(text))
    page.get_by_role("button", name="Contribute").click()
    page.get_by_role("link", name="Open sea@1").click()
    page.get_by_text("Speaks of the sea.").wait_for()


def test_a_bad_name_leaves_the_recipe_as_it_was_chosen(page: Any, url: str) -> None:
    page.goto(f"{url}/compose?seed=pico&experts=code%401,law%401&evaluate=no")
    settle(page)
    page.get_by_text("Merged trunk", exact=True).click()
    page.get_by_text("What to train").wait_for()
    page.get_by_role("slider").first.focus()
    page.keyboard.press("ArrowRight")
    page.get_by_text("--tokens 10000").wait_for()
    page.get_by_role("textbox", name="Name", exact=True).fill("../up")
    page.get_by_test_id("stBaseButton-primary").filter(has_text="Compose").click()
    page.get_by_text("Correct the name first").wait_for()
    page.get_by_text("--tokens 10000").wait_for()
    page.get_by_role("textbox", name="Name", exact=True).fill("up")
    page.get_by_test_id("stBaseButton-primary").filter(has_text="Compose").click()
    page.get_by_role("link", name="Open up@1").wait_for()


def test_a_reload_and_another_page_keep_what_a_form_was_given(page: Any, url: str) -> None:
    from playwright.sync_api import expect

    page.goto(f"{url}/contribute")
    settle(page)
    name = page.get_by_role("textbox", name="Name", exact=True)
    name.fill("sea")
    page.keyboard.press("Enter")
    page.wait_for_url("**name=sea**")
    expect(page).to_have_title("Contribute an expert · nexusmix")
    page.reload()
    expect(name).to_have_value("sea")
    page.get_by_role("link", name="Runs").first.click()
    expect(page).to_have_title("Runs · nexusmix")
    page.get_by_role("link", name="Contribute").first.click()
    expect(name).to_have_value("sea")
    page.wait_for_url("**name=sea**")


def test_focus_by_the_keyboard_is_visible_on_a_link(page: Any, url: str) -> None:
    page.goto(f"{url}/map")
    settle(page)
    page.get_by_role("link", name="Catalog").last.wait_for()
    page.keyboard.press("Tab")
    page.get_by_test_id("stMainBlockContainer").get_by_role("link", name="Catalog").focus()
    outline = "getComputedStyle(document.activeElement).outlineStyle"
    assert page.evaluate(outline) == "solid"


def test_the_keyboard_alone_leads_from_two_needs_to_a_form_with_both_experts(page: Any, url: str) -> None:
    page.goto(url)
    settle(page)
    page.get_by_label("Search by meaning").focus()
    page.keyboard.type("plaintiff court statute; simmer garlic broth")
    page.keyboard.press("Enter")
    offer = page.get_by_role("link", name="Compose these 2 experts")
    offer.wait_for()
    settle(page)
    for _ in range(40):
        page.keyboard.press("Tab")
        if offer.evaluate("link => link === document.activeElement"):
            break
    page.keyboard.press("Enter")
    page.get_by_text("2 plus the seed").wait_for()


def test_on_a_phone_the_lens_reads_a_text_and_nothing_is_wider_than_the_window(
    page: Any, url: str, pair: str
) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    page.goto(f"{url}/lens?mix={pair}")
    settle(page)
    page.get_by_role("textbox", name="Your text").fill("def main: the plaintiff asked the court")
    page.get_by_role("button", name="Read it").click()
    page.locator(".nm-lens .t").first.wait_for()
    page.get_by_text("reads your text").wait_for()
    page.wait_for_url("**text=def**")
    assert page.evaluate("document.documentElement.scrollWidth - window.innerWidth") <= 0
    assert page.locator(".nm-lens").bounding_box()["width"] <= 390
