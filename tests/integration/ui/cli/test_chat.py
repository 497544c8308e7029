"""`nexusmix chat`: one message, a conversation, and what it does with errors."""

from __future__ import annotations

import json
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from composer.generation import generate
from registry.home import Registry
from ui.cli import app
from ui.cli.kit.failures import exit_code


def chat(registry: Registry, *arguments: str, text: str | None = None) -> Result:
    """Run the command on the registry, with this text on standard input."""
    return CliRunner().invoke(app, ["--home", str(registry.home), "chat", *arguments], input=text)


@pytest.mark.parametrize("name", ["whole", "merged"])
def test_a_message_gets_the_reply_that_follows_the_template(mixes: Registry, name: str) -> None:
    prompt = "system: Be brief.</s>user: def the</s>assistant: "
    own = generate(mixes, name, prompt, max_new_tokens=9, temperature=0)
    options = ("--system", "Be brief.", "--max-new-tokens", "9", "--temperature", "0")
    shown = chat(mixes, name, "def the", *options)
    assert shown.exit_code == 0 and "tokens/s" in shown.stderr and "code@1" in shown.stderr
    answer = json.loads(chat(mixes, name, *options, "--json", text="def the").stdout)
    assert answer["messages"][-1] == {"role": "assistant", "content": own.text}
    assert answer["template"] == "seed pico" and answer["tokens"] == len(own.tokens)
    assert sum(answer["experts"].values()) == pytest.approx(1)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("whole", "refuse"), 4),
        (("whole", "x" * 300), 2),
        (("whole", " "), 2),
        (("whole", "hi", "--template", "nobody"), 2),
        (("whole", "hi", "--top-p", "0"), 2),
        (("nobody", "hi"), 3),
    ],
)
def test_a_message_that_gets_no_reply_has_the_exit_code_of_its_reason(
    mixes: Registry, arguments: tuple[str, ...], code: int
) -> None:
    result = chat(mixes, *arguments)
    error = result.exception
    assert error is not None
    assert (result.exit_code if isinstance(error, SystemExit) else exit_code(error)) == code


def test_a_conversation_goes_on_after_an_error_a_reset_and_an_ended_reply(
    mixes: Registry, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from ui.cli import chat as verb

    seen: list[Any] = []

    class Scripted:
        """A chat that records each conversation, and is interrupted at "stop"."""

        def reply(self, messages: Any, sampling: Any, *, active_experts: Any, on_token: Any) -> Any:
            from composer.errors import PromptTooLongError
            from composer.generation import Generation, Token

            seen.append([message["content"] for message in messages])
            if messages[-1]["content"] == "long":
                raise PromptTooLongError("the prompt is too long")
            token = Token("yes\x1b[2J", {"code@1": 1.0}, [])
            on_token(token)
            if messages[-1]["content"] == "stop":
                raise KeyboardInterrupt
            return Generation(token.text, [token], "stop", 0.5)

    typed = iter(["one", "long", "stop", "", "two", "/reset", "three", "/exit", "never"])
    monkeypatch.setattr("builtins.input", lambda _prompt: next(typed))
    verb._Talk(Scripted(), None, "Be brief.", None, quiet=False).converse()  # type: ignore[arg-type]
    said = "yes\x1b[2J"
    assert seen == [
        ["Be brief.", "one"],
        ["Be brief.", "one", said, "long"],
        ["Be brief.", "one", said, "stop"],
        ["Be brief.", "one", said, "stop", said, "two"],
        ["Be brief.", "three"],
    ]
    shown = capsys.readouterr()
    assert "\x1b" not in shown.out and "too long" in shown.err and "2.0 tokens/s" in shown.err
