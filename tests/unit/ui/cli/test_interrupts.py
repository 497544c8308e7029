"""Ctrl-C ends a command as an interrupt, even if the interrupt is converted to another exception."""

import signal
import subprocess
import sys

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


def test_an_interrupt_during_the_imports_prints_no_traceback():
    script = (
        "import sys, signal\n"
        "class Finder:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'ui.cli': signal.raise_signal(signal.SIGINT)\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "sys.meta_path.insert(0, Finder())\n"
        "from nexusmix.__main__ import main; sys.exit(main())"
    )
    done = subprocess.run([sys.executable, "-c", script, "list"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.strip()) == (130, "interrupted")
