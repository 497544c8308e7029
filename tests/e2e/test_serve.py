"""`nexusmix serve` in a real shell: it answers at the printed address, and ends gracefully on a signal."""

from __future__ import annotations

import json
import signal
import subprocess
from typing import TYPE_CHECKING, Any

import openai
import pytest

if TYPE_CHECKING:
    from conftest import Shell


@pytest.fixture(scope="module")
def mixed(stocked: Shell) -> Shell:
    """The stocked registry with the mix `served`."""
    stocked.json("compose", "served", "--seed", "pico", "--experts", "code,law")
    return stocked


def started(shell: Shell, *options: object) -> tuple[subprocess.Popen[str], Any]:
    """A running server, and the JSON that it printed."""
    server = shell.start("serve", "served", "--port", 0, "--json", *options)
    assert server.stdout is not None
    return server, json.loads("".join(iter(server.stdout.readline, "}\n")) + "}")


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_a_server_answers_at_its_address_until_a_signal_and_a_running_reply_ends_first(
    mixed: Shell, sent: signal.Signals
) -> None:
    server, said = started(mixed)
    with openai.OpenAI(base_url=said["url"], api_key="any", max_retries=0) as client:
        assert [model.id for model in client.models.list().data] == [said["mix"]] == ["served@1"]
        asked: dict[str, Any] = {"model": "served", "prompt": "def", "max_tokens": 60, "temperature": 0}
        stream = iter(client.completions.create(**asked, stream=True))
        pieces = [next(stream)]
        server.send_signal(sent)
        pieces += stream
    assert pieces[-1].choices[0].finish_reason in ("stop", "length")
    _, errors = server.communicate()
    assert server.returncode == 0 and "Traceback" not in errors


def test_beyond_this_machine_a_server_needs_a_key(shell: Shell) -> None:
    refused = shell.run("serve", "served", "--address", "0.0.0.0")
    assert refused.returncode == 2 and "NEXUSMIX_API_KEY" in refused.stderr


def test_a_mix_that_does_not_exist_is_not_served(shell: Shell) -> None:
    assert shell.run("serve", "nobody", "--port", 0).returncode == 3
