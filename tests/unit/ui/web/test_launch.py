"""Start of the web app: its flags and its port."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from registry.errors import ConflictError, InvalidInputError
from ui.cli.kit.failures import USAGE
from ui.queue.roots import Roots, chosen_roots, configured_roots
from ui.web import launch
from ui.web.frame.guard import ANY_ADDRESS


def test_every_setting_of_ours_is_one_that_streamlit_knows() -> None:
    from streamlit import config

    known = set(config.get_config_options())
    command = launch.command(port=8501, address="localhost", browser=False)
    flags = [argument for argument in command if argument.startswith("--")]
    assert {flag.removeprefix("--").partition("=")[0] for flag in flags} <= known


def test_the_server_phones_nobody_and_watches_no_files() -> None:
    command = launch.command(port=8600, address="localhost", browser=False)
    assert command[:4] == [sys.executable, "-P", "-m", "ui.web.frame.server"]
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


@pytest.mark.parametrize("address", ["localhost", "127.0.0.1", "127.0.0.9", "127.1", "::1"])
def test_this_machine_alone_needs_no_trust(address: str) -> None:
    assert launch.require_trust(address, [], trusted=False) is False
    assert ANY_ADDRESS not in launch.hosts_of(address)
    assert {"localhost", "127.0.0.1", "::1", address} == set(launch.hosts_of(address))


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "", "0", "192.0.2.7"])
def test_listening_beyond_this_machine_is_refused_unless_the_network_is_trusted(address: str) -> None:
    with pytest.raises(InvalidInputError, match=r"no login.*--trust-network"):
        launch.require_trust(address, [], trusted=False)
    assert launch.require_trust(address, [], trusted=True) is True
    assert ANY_ADDRESS in launch.hosts_of(address)


def test_a_name_that_only_a_proxy_answers_to_needs_trust_as_well() -> None:
    with pytest.raises(InvalidInputError, match=r"models\.example.*--trust-network"):
        launch.require_trust("localhost", ["models.example"], trusted=False)
    assert launch.require_trust("localhost", ["models.example"], trusted=True) is True
    assert "models.example" in launch.hosts_of("localhost", ["Models.Example"])


def test_the_command_refuses_to_listen_to_a_network_before_it_starts_anything(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from ui.cli import main

    monkeypatch.setattr(launch, "serve", lambda *_, **__: pytest.fail("it was started"))
    assert main(["ui", "--address", "0.0.0.0", "--no-browser"]) == USAGE
    assert "--trust-network" in capsys.readouterr().err


def test_one_local_user_reads_below_home_and_others_nowhere_without_named_roots(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    local = chosen_roots(None, None, only_local=True)
    assert {tmp_path / "user", Path.cwd(), tmp_path / "hub"} <= set(local.imports)
    assert tmp_path / "user" in local.exports and tmp_path / "hub" not in local.exports
    assert chosen_roots(None, None, only_local=False) == Roots()
    assert chosen_roots([tmp_path], None, only_local=False) == Roots(imports=(tmp_path,))
    for name, value in local.environment().items():
        monkeypatch.setenv(name, value)
    assert configured_roots() == local


@pytest.mark.parametrize(("flag", "variable"), [("--import-root", "IMPORT"), ("--export-root", "EXPORT")])
def test_roots_come_from_options_or_from_the_environment(
    flag: str, variable: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from ui.cli import main

    seen: list[Roots] = []
    monkeypatch.setattr(launch, "serve", lambda *_, roots, **__: seen.append(roots) or 0)
    one, two = tmp_path / "one", tmp_path / "two"
    assert main(["ui", flag, str(one), flag, str(two)]) == 0
    monkeypatch.setenv(f"NEXUSMIX_{variable}_ROOTS", f"{one}:{two}")
    assert main(["ui"]) == 0
    field = "imports" if variable == "IMPORT" else "exports"
    assert [getattr(roots, field) for roots in seen] == [(one, two), (one, two)]
