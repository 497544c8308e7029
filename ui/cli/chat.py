"""`nexusmix chat`: talk to a mix, once or in a conversation."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from ui.cli.kit.context import Json, MixRef, examples, open_registry, warn_of_withdrawn
from ui.cli.kit.output import note, print_json
from ui.cli.kit.sampling import Choices, TemplateOf, generates, mean_shares, summary
from ui.wording.display import printable
from ui.wording.failures import describe

if TYPE_CHECKING:
    from composer.chat.conversation import Chat
    from composer.generation import Generation
    from composer.generation.sampling import Sampling

EXAMPLES = examples(
    "nexusmix chat team",
    'nexusmix chat team "What is a matrix?" --system "Answer in one sentence."',
)
COMMANDS = "/reset starts again, /exit or Ctrl-D leaves, Ctrl-C ends a reply"


@generates(max_new_tokens=512)
def chat(
    ctx: typer.Context,
    mix: MixRef,
    message: Annotated[
        str | None,
        typer.Argument(
            metavar="[MESSAGE]", help="One message to reply to. Without it, read from the terminal or a pipe."
        ),
    ] = None,
    system: Annotated[
        str | None, typer.Option(metavar="TEXT", help="A system prompt, before the first message.")
    ] = None,
    template: TemplateOf = None,
    *,
    choices: Choices,
    as_json: Json = False,
) -> None:
    """Talk to a mix: reply to one message, or to a conversation in the terminal.

    The chat template is the seed's, or else the one that the experts have in common.
    """
    if message is None and not sys.stdin.isatty():
        message = sys.stdin.read()
    if message is None and as_json:
        raise typer.BadParameter("--json replies to one message: give it as an argument or through a pipe")
    if message is not None and not message.strip():
        raise typer.BadParameter("the message is empty")
    with open_registry(ctx) as registry:
        warn_of_withdrawn(registry, mix)
        from composer.chat.renderer import Renderer
        from composer.chat.templates import template_of
        from composer.mix.opening import find_mix

        sampling = choices.sampling
        record, manifest = find_mix(registry, mix)
        chosen = template_of(registry.blobs, manifest, template)
        with Renderer() as renderer:
            from composer.chat.conversation import Chat
            from composer.mix.opening import open_mix

            opened = Chat(open_mix(registry, manifest), chosen, renderer)
            talk = _Talk(opened, sampling, system, choices.experts, quiet=as_json)
            if message is None:
                note(f"{record.ref}, chat template of {chosen.origin}; {COMMANDS}")
                talk.converse()
                return
            result = talk.say(message)
    if as_json:
        print_json(
            {
                "mix": record.ref,
                "template": chosen.origin,
                "messages": talk.messages,
                "finish": result.finish,
                "experts": mean_shares([token.experts for token in result.tokens]),
                "tokens": len(result.tokens),
                "tokens_per_second": result.speed,
            }
        )


class _Talk:
    """A conversation: its messages so far, and the settings of every reply."""

    def __init__(
        self, chat: Chat, sampling: Sampling, system: str | None, active: list[str] | None, *, quiet: bool
    ) -> None:
        self._chat, self._sampling, self._active, self._quiet = chat, sampling, active, quiet
        self._opening = [{"role": "system", "content": system}] if system else []
        self.messages = list(self._opening)

    def say(self, text: str) -> Generation:
        """Write the reply to a message, and remember both."""
        asked = [*self.messages, {"role": "user", "content": text}]
        pieces: list[str] = []

        def write(piece: str) -> None:
            pieces.append(piece)
            if not self._quiet:
                sys.stdout.write(printable(piece, lines=True))
                sys.stdout.flush()

        try:
            result = self._chat.reply(
                asked, self._sampling, active_experts=self._active, on_token=lambda token: write(token.text)
            )
        finally:
            if pieces and not self._quiet:
                sys.stdout.write("\n")
            if pieces:  # also after Ctrl-C: the conversation goes on from the text that was written
                self.messages = [*asked, {"role": "assistant", "content": "".join(pieces)}]
        if not self._quiet:
            note(summary(result))
        return result

    def converse(self) -> None:
        """Read messages from the terminal until its end."""
        from composer.errors import ChatTemplateError, PromptTooLongError

        while (text := _ask()) is not None:
            if text == "/reset":
                self.messages = list(self._opening)
                note("the conversation is empty")
            elif text:
                try:
                    self.say(text)
                except KeyboardInterrupt:
                    note("the reply was ended")
                except (ChatTemplateError, PromptTooLongError) as error:
                    note(f"{describe(error)[0]}; /reset starts again")


def _ask() -> str | None:
    """Read one message; None at the end."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401 (its import gives `input` a history and editing)
    try:
        text = input("> ").strip()
    except EOFError:
        return None
    return None if text == "/exit" else text
