"""Start of the web app: its flags and its port."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from registry.accounts import add_account
from registry.errors import ConflictError, InvalidInputError
from registry.home import Registry
from ui.cli.kit.failures import USAGE
from ui.queue.roots import Roots, chosen_roots, configured_roots
from ui.web import launch
from ui.web.frame.guard import ANY_ADDRESS
from ui.web.frame.parent import PARENT_VARIABLE

ROOT = Path(launch.__file__).parents[2]
# A server without Streamlit: it binds its port or exits with 1, reports that it listens, and waits.
SERVER = """
import socket, sys, threading
from ui.web.frame.parent import report_listening
try:
    server = socket.create_server(("localhost", int(sys.argv[1])))
except OSError:
    sys.exit(1)
report_listening()
threading.Event().wait()
"""
# A server that Ctrl-C interrupts before it listens.
EARLY = "import os, threading; os.kill(os.getppid(), 2); threading.Event().wait()"


def test_every_setting_of_ours_is_one_that_streamlit_knows() -> None:
    from streamlit import config

    known = set(config.get_config_options())
    command = launch.command(port=8501, address="localhost")
    flags = [argument for argument in command if argument.startswith("--")]
    assert {flag.removeprefix("--").partition("=")[0] for flag in flags} <= known


def test_the_server_phones_nobody_and_watches_no_files() -> None:
    command = launch.command(port=8600, address="localhost")
    assert command[:6] == [sys.executable, "-P", "-m", "streamlit", "run", str(launch.APP)]
    expected = {
        "--server.port=8600",
        "--server.address=localhost",
        "--server.headless=true",
        "--server.fileWatcherType=none",
        "--browser.gatherUsageStats=false",
    }
    assert expected <= set(command)


@pytest.fixture
def servers(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[subprocess.Popen[bytes]]]:
    """The processes that `serve` starts, with SERVER in place of Streamlit; Ctrl-C raises KeyboardInterrupt."""
    started: list[subprocess.Popen[bytes]] = []
    popen = subprocess.Popen

    def start(*arguments: Any, **options: Any) -> subprocess.Popen[bytes]:
        started.append(popen(*arguments, **options))
        return started[-1]

    monkeypatch.setattr(subprocess, "Popen", start)
    monkeypatch.setattr(
        launch, "command", lambda *, port, address: [sys.executable, "-c", SERVER, str(port), address]
    )
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield started
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that another program listens on."""
    with socket.create_server(("localhost", 0)) as other:
        yield other.getsockname()[1]


def interrupt(_port: int) -> None:
    signal.raise_signal(signal.SIGINT)


def test_a_taken_port_is_a_conflict_when_asked_for(
    servers: list[subprocess.Popen[bytes]], taken: int, tmp_path: Path
) -> None:
    with pytest.raises(ConflictError, match=f"port {taken} is taken.*--port"):
        launch.serve(tmp_path, listening=interrupt, port=taken, worker=False)
    assert servers == []


@pytest.mark.parametrize("when", ["before the choice", "between the choice and the start"])
def test_a_taken_port_is_passed_over_when_none_was_asked_for(
    when: str,
    servers: list[subprocess.Popen[bytes]],
    taken: int,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    is_free = launch._is_free
    looks_free = [taken] if when == "between the choice and the start" else []
    monkeypatch.setattr(
        launch,
        "_is_free",
        lambda address, port: looks_free.pop() > 0 if looks_free else is_free(address, port),
    )
    monkeypatch.setattr(launch, "FIRST_PORT", taken)
    chosen: list[int] = []

    def listening(port: int) -> None:
        chosen.append(port)
        interrupt(port)

    assert launch.serve(tmp_path, listening=listening, worker=False) == 0
    assert chosen[0] > taken
    assert [server.returncode for server in servers][:-1] == ([1] if when != "before the choice" else [])


@pytest.mark.parametrize("server", [EARLY, SERVER], ids=["before", "after"])
def test_ctrl_c_ends_the_app_with_0_before_it_listens_and_after(
    server: str, servers: list[subprocess.Popen[bytes]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(launch, "command", lambda *, port, address: [sys.executable, "-c", server, str(port)])
    assert launch.serve(tmp_path, listening=interrupt, worker=False) == 0
    assert [each.returncode for each in servers] == [-signal.SIGTERM]


def test_a_server_that_fails_ends_the_app_with_its_exit_code(
    servers: list[subprocess.Popen[bytes]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(launch, "command", lambda **_: [sys.executable, "-c", "raise SystemExit(7)"])
    assert launch.serve(tmp_path, listening=interrupt, worker=True) == 7
    assert len(servers) == 1, "no worker without an app"


def test_the_server_ends_when_the_process_that_started_it_is_gone() -> None:
    ours, servers = socket.socketpair()
    with servers:
        server = subprocess.Popen(
            [sys.executable, "-c", SERVER, "0"],
            env={**os.environ, "PYTHONPATH": str(ROOT), PARENT_VARIABLE: str(servers.fileno())},
            pass_fds=[servers.fileno()],
        )
    with ours:
        assert ours.recv(1)
    assert server.wait() == -signal.SIGKILL


@pytest.mark.parametrize("worker", [True, False])
def test_a_local_worker_comes_and_goes_with_the_app_unless_it_is_unwanted(
    worker: bool, servers: list[subprocess.Popen[bytes]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    started: list[subprocess.Popen[bytes]] = []

    def start_local(home: Path) -> subprocess.Popen[bytes]:
        assert home == tmp_path
        started.append(subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=-1))
        servers[0].kill()
        return started[-1]

    monkeypatch.setattr(launch, "start_local", start_local)
    listening = (lambda _: None) if worker else (lambda _: servers[0].kill())
    assert launch.serve(tmp_path, listening=listening, worker=worker) == -signal.SIGKILL
    assert [child.returncode for child in started] == ([-signal.SIGTERM] if worker else [])


@pytest.mark.parametrize("address", ["localhost", "127.0.0.1", "127.0.0.9", "127.1", "::1"])
def test_an_app_of_this_machine_alone_needs_no_login(address: str, registry: Registry) -> None:
    assert launch.is_shared(address, []) is False
    assert launch.check_login(registry, None, shared=False) is None
    assert ANY_ADDRESS not in launch.hosts_of(address)
    assert {"localhost", "127.0.0.1", "::1", address} == set(launch.hosts_of(address))


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "", "0", "192.0.2.7"])
def test_beyond_this_machine_visitors_log_in(address: str, registry: Registry) -> None:
    assert launch.is_shared(address, []) is True
    assert ANY_ADDRESS in launch.hosts_of(address)
    with pytest.raises(InvalidInputError, match="nexusmix users add"):
        launch.check_login(registry, None, shared=True)
    add_account(registry, "alice", "reader")
    assert launch.check_login(registry, None, shared=True) == "token"


def test_a_name_that_only_a_proxy_answers_to_needs_a_login_as_well() -> None:
    assert launch.is_shared("localhost", ["models.example"]) is True
    assert "models.example" in launch.hosts_of("localhost", ["Models.Example"])


def test_an_identity_provider_must_be_configured(
    registry: Registry, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    add_account(registry, "alice", "reader", email="alice@example.org")
    with pytest.raises(InvalidInputError, match="expected token or oidc"):
        launch.check_login(registry, "password", shared=False)
    with pytest.raises(InvalidInputError, match="no OpenID Connect provider"):
        launch.check_login(registry, "oidc", shared=False)
    (tmp_path / ".streamlit").mkdir()
    (tmp_path / ".streamlit" / "secrets.toml").write_text("[auth]\nclient_id = 'x'\n")
    monkeypatch.setattr(launch, "find_spec", lambda _name: object())
    assert launch.check_login(registry, "oidc", shared=False) == "oidc"


def test_the_command_refuses_to_listen_to_a_network_without_accounts_before_it_starts_anything(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from ui.cli import main

    monkeypatch.setattr(launch, "serve", lambda *_, **__: pytest.fail("it was started"))
    assert main(["ui", "--address", "0.0.0.0", "--no-browser"]) == USAGE
    assert "users add" in capsys.readouterr().err


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


@pytest.mark.parametrize(
    ("display", "option", "opened"), [(":0", [], 1), ("", [], 0), (":0", ["--no-browser"], 0)]
)
def test_a_browser_opens_on_a_display_once_the_app_listens_unless_it_is_unwanted(
    display: str,
    option: list[str],
    opened: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from ui.cli import main

    addresses: list[str] = []
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(typer, "launch", addresses.append)
    monkeypatch.setattr(launch, "serve", lambda *_, listening, **__: listening(8765) or 0)
    monkeypatch.setenv("DISPLAY", display)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    assert main(["ui", *option]) == 0
    assert addresses == ["http://localhost:8765"] * opened
    assert "nexusmix is at http://localhost:8765" in capsys.readouterr().err
