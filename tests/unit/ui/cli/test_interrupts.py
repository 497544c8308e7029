"""Ctrl-C ends a command as an interrupt, even if the interrupt is converted to another exception."""

import signal

import pytest

import ui.cli


@pytest.fixture(autouse=True)
def _interruptible():
    """Restore Python's handler: a shell may start background jobs with interrupts ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_an_interrupt_that_a_library_turns_into_its_own_error_is_still_an_interrupt(monkeypatch, capsys):
    def app(**_):
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            raise ImportError("a compiled module failed to load") from None

    monkeypatch.setattr(ui.cli, "app", app)
    assert ui.cli.main(["list"]) == 130
    assert capsys.readouterr().err.strip().startswith("interrupted")


def test_the_same_error_without_an_interrupt_is_a_failure(monkeypatch, capsys):
    def app(**_):
        raise ImportError("a compiled module failed to load")

    monkeypatch.setattr(ui.cli, "app", app)
    assert ui.cli.main(["list"]) == 1
    assert "failed to load" in capsys.readouterr().err
