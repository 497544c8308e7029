"""Options of the commands that generate text, and the line about the result."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import wraps
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from ui.cli.kit.context import ActiveExperts, RandomSeed, parse_names
from ui.wording.display import share

if TYPE_CHECKING:
    from composer.generation import Generation
    from composer.generation.sampling import Sampling

SAMPLING = "Sampling"


def _option(*flags: str, **more: Any) -> Any:
    return typer.Option(*flags, rich_help_panel=SAMPLING, **more)


@dataclass(frozen=True)
class Choices:
    """Values of the options of every command that generates text; the fields are its options."""

    max_new_tokens: Annotated[int, _option(min=1, metavar="N", help="Maximum number of tokens to generate.")]
    temperature: Annotated[
        float,
        _option(min=0, metavar="X", help="Sampling temperature. 0 always selects the most likely token."),
    ] = 0.8
    top_p: Annotated[
        float,
        _option(
            "--top-p",
            min=0,
            max=1,
            metavar="P",
            help="Sample from the fewest tokens whose probabilities sum to P.",
        ),
    ] = 1.0
    top_k: Annotated[
        int, _option(min=0, metavar="K", help="Sample from the K most likely tokens. 0 is all.")
    ] = 0
    stop: Annotated[
        list[str] | None, _option(metavar="TEXT", help="A text that ends the generation. Repeatable.")
    ] = None
    random_seed: RandomSeed = 0
    active_experts: ActiveExperts = None

    @property
    def sampling(self) -> Sampling:
        """Settings for the composer. Raises RecipeError for a value outside its range."""
        from composer.generation.sampling import Sampling

        stops = tuple(self.stop or ())
        return Sampling(
            self.max_new_tokens, self.temperature, self.top_p, self.top_k, self.random_seed, stops
        )

    @property
    def experts(self) -> list[str] | None:
        """Names of the active experts; None: all."""
        return parse_names(self.active_experts)


def generates(max_new_tokens: int) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Replace the parameter `choices` of a command by one option per field of `Choices`.

    `max_new_tokens` is the default of that option.
    """
    hints = get_type_hints(Choices, include_extras=True)
    options = []
    for each in fields(Choices):
        default = max_new_tokens if each.name == "max_new_tokens" else each.default
        options.append(
            inspect.Parameter(
                each.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=hints[each.name]
            )
        )

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = inspect.signature(command, eval_str=True)

        @wraps(command)
        def run(**given: Any) -> None:
            choices = Choices(**{option.name: given.pop(option.name) for option in options})
            command(**given, choices=choices)

        parameters = []
        for each in own.parameters.values():
            parameters += (
                options if each.name == "choices" else [each.replace(kind=inspect.Parameter.KEYWORD_ONLY)]
            )
        run.__dict__["__signature__"] = own.replace(parameters=parameters)
        run.__annotations__ = {each.name: each.annotation for each in parameters}
        return run

    return decorate


TemplateOf = Annotated[
    str | None,
    typer.Option(
        metavar="EXPERT",
        help="Use this expert's chat template.",
        show_default="the seed's, else the experts'",
    ),
]


def summary(result: Generation) -> str:
    """Describe a generation: its length, its speed and the shares of the experts."""
    parts = [f"{len(result.tokens)} tokens, {result.speed:.1f} tokens/s"]
    shares = mean_shares([token.experts for token in result.tokens])
    if shares:
        parts.append(", ".join(f"{ref} {share(part)}" for ref, part in shares.items()))
    return "; ".join(parts)


def mean_shares(tokens: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the mean share of each expert over all generated tokens."""
    refs = tokens[0] if tokens else {}
    return {ref: sum(token[ref] for token in tokens) / len(tokens) for ref in refs}
