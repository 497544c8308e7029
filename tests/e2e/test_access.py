"""Access to the running web app: requests to a foreign host name and frames of other sites are refused."""

from __future__ import annotations

import http.client
import signal
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

if TYPE_CHECKING:
    from conftest import Shell

PAGES = ("/", "/catalog", "/_stcore/health", "/_stcore/host-config")
SOCKET = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}


def answer(url: str, path: str, **headers: str) -> http.client.HTTPResponse:
    """The server's response to a request with these headers."""
    parts = urlsplit(url)
    assert parts.hostname is not None
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=60)
    connection.putrequest("GET", path, skip_host=True)
    for name, value in headers.items():
        connection.putheader(name, value)
    connection.endheaders()
    return connection.getresponse()


@pytest.mark.parametrize("path", PAGES)
def test_a_foreign_name_gets_403_and_the_machines_own_names_get_the_app(url: str, path: str) -> None:
    port = urlsplit(url).port
    for host in (f"localhost:{port}", f"127.0.0.1:{port}", f"[::1]:{port}"):
        assert answer(url, path, Host=host).status == 200
    for host in ("evil.example", f"evil.example:{port}", f"192.0.2.7:{port}"):
        assert answer(url, path, Host=host).status == 403


def test_the_socket_is_closed_to_a_foreign_name_and_to_a_page_of_another_site(url: str) -> None:
    own = urlsplit(url).netloc
    assert answer(url, "/_stcore/stream", Host=own, Origin=url, **SOCKET).status == 101
    assert answer(url, "/_stcore/stream", Host="evil.example", **SOCKET).status == 403
    assert answer(url, "/_stcore/stream", Host=own, Origin="http://evil.example", **SOCKET).status == 403


def test_no_other_site_may_put_the_app_in_a_frame(url: str) -> None:
    response = answer(url, "/", Host=urlsplit(url).netloc)
    assert response.getheader("X-Frame-Options") == "SAMEORIGIN"
    assert response.getheader("Content-Security-Policy") == "frame-ancestors 'self'"


def test_the_app_does_not_listen_to_a_network_without_accounts(shell: Shell) -> None:
    refused = shell.run("ui", "--address", "0.0.0.0", "--no-browser")
    assert refused.returncode == 2
    assert "users add" in refused.stderr


def test_an_app_with_a_login_serves_nothing_before_it(shell: Shell) -> None:
    token = shell.json("users", "add", "alice", "--role", "contributor")["token"]
    app = shell.start("ui", "--login", "token", "--no-browser", "--no-worker", "--json")
    url = shell.url_of(app)
    own = urlsplit(url).netloc
    for path in PAGES:
        assert answer(url, path, Host=own).status == 401
    assert answer(url, "/_stcore/stream", Host=own, Origin=url, **SOCKET).status == 403
    connection = http.client.HTTPConnection(own, timeout=60)
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    connection.request("POST", "/login", f"token={token}", form)
    cookie = (connection.getresponse().getheader("Set-Cookie") or "").split(";")[0]
    assert answer(url, "/", Host=own, Cookie=cookie).status == 200
    assert answer(url, "/_stcore/stream", Host=own, Origin=url, Cookie=cookie, **SOCKET).status == 101
    app.send_signal(signal.SIGINT)
    app.communicate()
    assert [event["action"] for event in shell.json("log")] == ["add user"]


def test_apps_that_start_at_once_each_get_a_port_and_end_with_0_on_ctrl_c(shell: Shell) -> None:
    apps = [shell.start("ui", "--no-browser", "--no-worker", "--json") for _ in range(2)]
    urls = [shell.url_of(app) for app in apps]
    assert len(set(urls)) == 2
    for app, url in zip(apps, urls, strict=True):
        assert answer(url, "/_stcore/health", Host=urlsplit(url).netloc).status == 200
        app.send_signal(signal.SIGINT)
    for app in apps:
        _output, errors = app.communicate()
        assert app.returncode == 0, errors
