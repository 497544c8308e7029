"""The web app in a real browser: find, open, share an address, on a wide and on a narrow window."""

from __future__ import annotations

from typing import Any

import pytest

pytestmark = pytest.mark.browser


def expect_cards(page: Any, *names: str) -> None:
    """Wait until the first cards show these names, in this order."""
    from playwright.sync_api import expect

    links = page.locator("[class*='st-key-card-'] a")
    for place, name in enumerate(names):
        expect(links.nth(place)).to_contain_text(name)


def settle(page: Any) -> None:
    """Wait for the cards, their links and the style sheet, which Streamlit loads one after the other."""
    page.get_by_text("3 experts, sorted by name").wait_for()
    page.get_by_role("link", name="code").wait_for()
    page.wait_for_function("getComputedStyle(document.querySelector('.st-key-cards')).display === 'grid'")


def overflow(page: Any) -> int:
    """Number of pixels by which the page is wider than its window."""
    return page.evaluate("document.documentElement.scrollWidth - window.innerWidth")


def test_a_visitor_searches_opens_an_expert_and_comes_back(page: Any, url: str) -> None:
    page.goto(url)
    page.get_by_text("3 experts, sorted by name").wait_for()
    expect_cards(page, "code", "cooking", "law")

    page.get_by_label("Search by meaning").fill("plaintiff court statute")
    page.keyboard.press("Enter")
    page.get_by_text("Nearest to").wait_for()
    expect_cards(page, "law")
    assert "q=plaintiff" in page.url

    # Cards of the list before may still be there for a moment.
    page.get_by_role("link", name="law").first.click()
    page.get_by_role("heading", name="law").wait_for()
    assert page.url.endswith("/expert?ref=law%401")
    page.get_by_text("Nearest domains").wait_for()
    page.get_by_role("link", name="code").wait_for()

    page.go_back()
    page.get_by_text("Nearest to").wait_for()
    assert page.get_by_label("Search by meaning").input_value() == "plaintiff court statute"


def test_a_visitor_sees_the_logo_before_the_app_is_loaded_and_the_app_afterwards(page: Any, url: str) -> None:
    page.route("**/static/js/**", lambda route: route.abort())
    page.goto(url)
    loading = page.locator("#nm-loading")
    loading.locator("img").wait_for(state="visible")
    page.unroute_all()
    page.reload()
    page.get_by_role("heading", level=1).wait_for()
    loading.wait_for(state="hidden")


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
    page.get_by_text("All stored files match their digests.").wait_for()


def test_an_expert_that_does_not_exist_has_a_page_that_says_so(page: Any, url: str) -> None:
    page.goto(f"{url}/expert?ref=nobody")
    page.get_by_text("Not found").wait_for()
    page.get_by_role("link", name="Catalog").first.click()
    page.get_by_text("3 experts, sorted by name").wait_for()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_pages_fit_the_window_in_light_and_dark(page: Any, url: str, width: int, scheme: str) -> None:
    page.set_viewport_size({"width": width, "height": 844})
    page.emulate_media(color_scheme=scheme)
    page.goto(url)
    page.get_by_text("3 experts, sorted by name").wait_for()
    assert overflow(page) <= 0
    background = page.evaluate("getComputedStyle(document.querySelector('.stApp')).backgroundColor")
    assert background == {"light": "rgb(251, 251, 253)", "dark": "rgb(16, 17, 24)"}[scheme]
    page.goto(f"{url}/expert?ref=law%401")
    page.get_by_text("Stored weights").wait_for()
    assert overflow(page) <= 0
