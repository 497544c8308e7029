"""Starting the web app: the flags it is given and the port it takes."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from pathlib import Path

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
    assert command[:4] == [sys.executable, "-P", "-m", "ui.frame.server"]
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


@pytest.mark.parametrize("worker", [True, False])
def test_a_local_worker_comes_and_goes_with_the_app_unless_it_is_unwanted(
    worker: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    started: list[subprocess.Popen[bytes]] = []

    def start_local(home: Path) -> subprocess.Popen[bytes]:
        assert home == tmp_path
        started.append(subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=-1))
        return started[-1]

    monkeypatch.setattr(launch, "start_local", start_local)
    monkeypatch.setattr(launch, "command", lambda **options: [sys.executable, "-c", "raise SystemExit(7)"])
    assert launch.serve(tmp_path, port=8501, worker=worker) == 7
    assert [child.returncode for child in started] == ([-signal.SIGTERM] if worker else [])
