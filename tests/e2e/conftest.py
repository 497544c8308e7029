"""A real shell, a real browser if one is installed, and a final report of the skipped browser tests."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import pico
import pytest
import warm_process

TIMEOUT_MS = 120_000  # timeout of a browser's search for an element
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
NO_BROWSER = "no Chromium on this machine: install chromium, or run `playwright install chromium`"
COMMAND = Path(sys.executable).with_name("nexusmix")


@dataclass(frozen=True)
class Shell:
    """Runs nexusmix like a user's shell, in a separate process, on one registry.

    With `warm`, commands that end by themselves run in processes that have their imports already.
    """

    home: Path
    warm: bool = False

    @property
    def environment(self) -> dict[str, str]:
        """The environment of the test run, with the offline embedder."""
        return {**os.environ, "NEXUSMIX_EMBEDDER": "hashing:64", "COLUMNS": "100"}

    def command(self, *arguments: object) -> list[str]:
        """The command with the registry's home before the verb."""
        return [str(COMMAND), "--home", str(self.home), *map(str, arguments)]

    @property
    def cold(self) -> Shell:
        """The same shell without warm processes."""
        return replace(self, warm=False)

    def run(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        """Run one command and wait for its exit."""
        if self.warm:
            return warm_process.run(self.command(*arguments)[1:], self.environment)
        return subprocess.run(
            self.command(*arguments), capture_output=True, text=True, env=self.environment, check=False
        )

    def json(self, *arguments: object) -> Any:
        """Run one command that must succeed, and return the JSON from its output."""
        done = self.run(*arguments, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def start(self, *arguments: object) -> subprocess.Popen[str]:
        """Start a command and leave it running."""
        return subprocess.Popen(
            self.command(*arguments),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self.environment,
            # A shell that runs the tests in the background makes them and their child processes ignore Ctrl-C.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    @staticmethod
    def url_of(app: subprocess.Popen[str]) -> str:
        """The address that a started `nexusmix ui --json` prints once it listens."""
        assert app.stdout is not None
        lines = itertools.takewhile(lambda line: line not in ("}\n", ""), iter(app.stdout.readline, None))
        return json.loads("".join(lines) + "}")["url"]


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    """A shell on an empty registry."""
    return Shell(tmp_path / "home")


@pytest.fixture(scope="session")
def stocked_home(
    pico_seed: Path, pico_expert: Path, pico_anchored: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The home that `stocked` copies."""
    from registry.home import open_registry
    from registry.intake.intake import add_seed, contribute

    folder = tmp_path_factory.mktemp("stocked")
    registry = open_registry(folder / "home", embedder="hashing:64")
    add_seed(registry, "pico", pico_seed, license="Apache-2.0")
    for name, source in {"code": pico_expert, "cooking": pico_expert, "law": pico_anchored}.items():
        data = [pico.write_documents(folder / f"{name}.jsonl", name)]
        contribute(
            registry, name, source, seed="pico", license="MIT", data=data, description=f"Speaks {name}."
        )
    registry.engine.dispose()
    return registry.home


@pytest.fixture(scope="module")
def stocked(stocked_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Shell:
    """A warm shell on a registry with the seed `pico` and the experts `code`, `cooking` and (anchored) `law`.

    Tests read it and add to it; no test removes anything.
    """
    home = shutil.copytree(stocked_home, tmp_path_factory.mktemp("stocked") / "home")
    return Shell(home, warm=True)


@pytest.fixture
def copied(stocked_home: Path, tmp_path: Path) -> Shell:
    """A warm shell on a registry like `stocked` that belongs to the test."""
    return Shell(shutil.copytree(stocked_home, tmp_path / "home"), warm=True)


@cache
def find_chromium() -> str | None:
    """Path of the system's Chromium or of Playwright's."""
    for name in BROWSERS:
        if path := shutil.which(name):
            return path
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        return None
    with sync_playwright() as playwright:
        path = playwright.chromium.executable_path
    return path if Path(path).exists() else None


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A headless Chromium.

    Playwright's event loop counts as running in this thread until its `with` ends.
    So each file has a Chromium of its own: files that come later may start an event loop.
    """
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=TIMEOUT_MS)
    arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=find_chromium(), args=arguments)
        yield launched
        launched.close()
    with pytest.raises(RuntimeError, match="no running event loop"):
        asyncio.get_running_loop()


@pytest.fixture(scope="module")
def url(stocked: Shell) -> Iterator[str]:
    """The address of the web app with its worker on the stocked registry, started as a user starts it."""
    server = stocked.start("ui", "--no-browser", "--json")
    yield stocked.url_of(server)
    server.send_signal(signal.SIGINT)
    _output, errors = server.communicate()
    assert server.returncode == 0, errors


@pytest.fixture
def new_page(browser: Any, request: pytest.FixtureRequest) -> Iterator[Callable[[], Any]]:
    """Opens browser windows, each with its own session; a dialog in one fails the test.

    If NEXUSMIX_SCREENSHOTS names a folder, the last picture of each window is stored there.
    """
    dialogs: list[str] = []
    pages: list[Any] = []

    def refuse(dialog: Any) -> None:
        dialogs.append(dialog.message)
        dialog.dismiss()

    def opened() -> Any:
        # Streamlit's animations would use more of the processor than the tests.
        context = browser.new_context(viewport={"width": 1280, "height": 900}, reduced_motion="reduce")
        context.set_default_timeout(TIMEOUT_MS)
        page = context.new_page()
        page.on("dialog", refuse)
        pages.append(page)
        return page

    yield opened
    for number, page in enumerate(pages):
        if folder := os.environ.get("NEXUSMIX_SCREENSHOTS"):
            page.screenshot(path=Path(folder) / f"{request.node.name}-{number}.png")
        page.context.close()
    assert not dialogs


@pytest.fixture
def page(new_page: Callable[[], Any]) -> Any:
    """One window."""
    return new_page()


def pytest_collection_modifyitems(items: Sequence[pytest.Item]) -> None:
    """Skip the browser tests if no browser is installed."""
    for item in items:
        if item.get_closest_marker("browser") and find_chromium() is None:
            item.add_marker(pytest.mark.skip(reason=NO_BROWSER))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(terminalreporter: Any) -> Iterator[None]:
    """Report the skipped browser tests and the reason last, so that nobody assumes that they passed."""
    result = yield
    left_out = [
        report for report in terminalreporter.stats.get("skipped", []) if "browser" in report.keywords
    ]
    if left_out:
        terminalreporter.section("left out", sep="-", yellow=True)
        terminalreporter.line(f"{len(left_out)} browser tests did not run: {NO_BROWSER}")
        for report in left_out:
            terminalreporter.line(f"  {report.nodeid}")
    return result
