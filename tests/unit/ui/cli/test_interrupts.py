"""Ctrl-C ends a command as an interrupt, whatever it is turned into on the way out."""

import signal

import pytest

import ui.cli


@pytest.fixture(autouse=True)
def _interruptible():
    """Python's own handler, also behind a shell that starts its background jobs with interrupts ignored."""
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
