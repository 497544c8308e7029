"""Take the README's pictures of the web app: `python -m bench.screenshots --home .demo` writes docs/screens/.

The registry must contain an evaluated mix, as the demo's does. Requires Chromium.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any
from urllib.parse import quote

from bench.browser import CHROMIUM_FLAGS, CHROMIUM_PATH, served, wait_for_script

OUT = Path(__file__).parents[1] / "docs" / "screens"
WIDTH, HEIGHT, NARROW = 1280, 900, 390
DARK = ("workbench", "lens", "catalog")
NARROWS = {"mix": "dark", "lens": "light", "compose": "light", "catalog": "light"}
MOST_BYTES = 200_000
TIMEOUT_MS = 180_000
NEEDS = "prove a theorem; parse a JSON file; poems in French"
TEXT = """def area(radius):
    \"\"\"Return the area of a circle.\"\"\"
    return math.pi * radius ** 2

The integral of a continuous function over a closed interval exists. A matrix is invertible if its determinant is not
zero.

template <typename T> class Tensor { public: const T* data() const; };
"""
PROMPT = 'def fibonacci(n):\n    """Return the n-th '


def main() -> int:
    """Start the app on the registry, visit each page, and write its picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--home", type=Path, default=Path(".demo"))
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--every", action="store_true", help="every page also in dark mode and on a phone")
    parser.add_argument("--browser", default=CHROMIUM_PATH, help="path of a Chromium")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    addresses = _addresses(options.home)
    from playwright.sync_api import sync_playwright

    with served(options.home) as app, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=options.browser, args=CHROMIUM_FLAGS)
        for name, address in addresses.items():
            _shoot(browser, app.url + address, options.out / f"{name}.png", scheme="light", width=WIDTH)
        play = app.url + addresses["playground"]
        _shoot(browser, play, options.out / "playground.png", scheme="dark", width=WIDTH, prompt=PROMPT)
        for name in addresses if options.every else DARK:
            path = options.out / f"{name}-dark.png"
            _shoot(browser, app.url + addresses[name], path, scheme="dark", width=WIDTH)
        for name in addresses if options.every else NARROWS:
            path = options.out / f"{name}-narrow.png"
            _shoot(browser, app.url + addresses[name], path, scheme=NARROWS.get(name, "light"), width=NARROW)
        browser.close()
    return _report(options.out)


def _addresses(home: Path) -> dict[str, str]:
    """Return the address of each page by the name of its picture."""
    from registry.catalog import queries
    from registry.home import open_registry
    from registry.queue import runs

    registry = open_registry(home)
    mixes = [mix for mix in queries.list_mixes(registry) if mix.evaluation]
    if not mixes:
        sys.exit(f"{home} contains no evaluated mix: run `nexusmix demo` first")
    mix = max(mixes, key=lambda each: (len(each.experts), each.created_at))
    experts = ",".join(mix.experts)
    pages = {
        "catalog": "/",
        "needs": f"/?q={quote(NEEDS)}",
        "lens": f"/lens?mix={quote(mix.ref)}&text={quote(TEXT)}",
        "workbench": "/compare",
        "map": "/map",
        "expert": f"/expert?ref={quote(mix.experts[0])}",
        "compose": f"/compose?seed={quote(mix.seed)}&experts={quote(experts)}",
        "mix": f"/mix?ref={quote(mix.ref)}",
        "mixes": "/mixes",
        "playground": f"/playground?mix={quote(mix.ref)}&beside=seed",
        "contribute": "/contribute",
        "runs": "/runs",
        "log": "/log",
        "add-seed": "/add-seed",
    }
    done = runs.list_runs(registry, states=["succeeded"], kind="compose", limit=1)
    registry.engine.dispose()
    if done:
        pages["run"] = f"/run?id={done[0].id}"
    return pages


def _shoot(browser: Any, url: str, path: Path, *, scheme: str, width: int, prompt: str | None = None) -> None:
    """Write the picture of a page in a new window. With a prompt, generate text in the playground first."""
    context = browser.new_context(viewport={"width": width, "height": HEIGHT}, color_scheme=scheme)
    context.set_default_timeout(TIMEOUT_MS)
    page = context.new_page()
    page.goto(url)
    page.locator(".stMainBlockContainer h1").first.wait_for()
    _settle(page)
    if prompt is not None:
        page.get_by_label("Prompt").fill(prompt)
        page.get_by_role("heading", name="Playground").click()
        page.get_by_role("button", name="Generate").click()
        page.locator(".nm-shares").first.wait_for()
        page.locator(".nm-written .alts").first.wait_for(state="attached")
        page.locator(".nm-written .tok[tabindex]").nth(3).focus()
        _settle(page)
    page.screenshot(path=path)
    context.close()


def _settle(page: Any) -> None:
    """Wait until the script has finished and charts and fonts are loaded."""
    wait_for_script(page)
    page.wait_for_load_state("networkidle")
    page.wait_for_function("!document.querySelector('[data-testid=stSkeleton]')")
    page.wait_for_timeout(1_000)


def _report(out: Path) -> int:
    """List the pictures. Return 1 if one is too large for a README."""
    too_large = 0
    for path in sorted(out.glob("*.png")):
        size = path.stat().st_size
        too_large += size > MOST_BYTES
        print(f"{path}  {size / 1000:.0f} kB" + ("  too large" if size > MOST_BYTES else ""))
    return 1 if too_large else 0


if __name__ == "__main__":
    sys.exit(main())
