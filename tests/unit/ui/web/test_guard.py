"""The web app's guard: the host names that it accepts."""

from __future__ import annotations

import pytest

from ui.web.frame.guard import (
    ANY_ADDRESS,
    HOSTS_VARIABLE,
    LOCAL_HOSTS,
    allowed_hosts,
    is_allowed,
)

LOCAL = frozenset(LOCAL_HOSTS)


@pytest.mark.parametrize(
    "host",
    ["localhost", "localhost:8501", "LocalHost:80", "127.0.0.1:8501", "[::1]", "[::1]:8501", "localhost."],
)
def test_the_machines_own_names_are_let_in(host: str) -> None:
    assert is_allowed(host, LOCAL)


@pytest.mark.parametrize(
    "host",
    [
        None,
        "",
        "evil.example",
        "evil.example:8501",
        "localhost.evil.example",
        "localhost@evil.example",
        "127.0.0.1.evil.example",
        "localhost, evil.example",
        "localhost/evil",
        "192.168.1.7",
        "[fe80::1]",
        "::1",
    ],
)
def test_every_other_name_is_foreign(host: str | None) -> None:
    assert not is_allowed(host, LOCAL)


def test_beyond_this_machine_an_address_in_figures_is_let_in_but_no_unknown_name() -> None:
    allowed = frozenset([*LOCAL_HOSTS, "models.example", ANY_ADDRESS])
    assert is_allowed("192.168.1.7:8501", allowed)
    assert is_allowed("[fe80::1]:8501", allowed)
    assert is_allowed("models.example", allowed)
    assert not is_allowed("evil.example", allowed)
    assert not is_allowed(ANY_ADDRESS, allowed)


def test_without_names_in_the_environment_only_this_machines_are_let_in(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv(HOSTS_VARIABLE, raising=False)
    assert allowed_hosts() == LOCAL
    monkeypatch.setenv(HOSTS_VARIABLE, "localhost, Models.Example")
    assert allowed_hosts() == {"localhost", "models.example"}
