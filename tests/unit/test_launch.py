"""Starting the web app: the flags it is given and the port it takes."""

from __future__ import annotations

import socket
import sys

import pytest

from registry.errors import ConflictError
from ui import launch


def test_every_setting_of_ours_is_one_that_streamlit_knows() -> None:
    from streamlit import config

    known = set(config.get_config_options())
    command = launch.command(port=8501, address="localhost", browser=False)
    flags = [argument for argument in command if argument.startswith("--")]
    assert {flag.removeprefix("--").partition("=")[0] for flag in flags} <= known


def test_the_server_phones_nobody_and_watches_no_files() -> None:
    command = launch.command(port=8600, address="localhost", browser=False)
    assert command[:4] == [sys.executable, "-m", "streamlit", "run"]
    expected = {
        "--server.port=8600",
        "--server.address=localhost",
        "--server.headless=true",
        "--server.fileWatcherType=none",
        "--browser.gatherUsageStats=false",
    }
    assert expected <= set(command)


def test_a_taken_port_is_a_conflict_when_asked_for_and_passed_over_when_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.create_server(("localhost", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConflictError, match=f"port {port} is taken.*--port"):
            launch.choose_port("localhost", port)
        monkeypatch.setattr(launch, "FIRST_PORT", port)
        assert launch.choose_port("localhost", None) > port
