"""Requests of the API, checked: types, ranges, and options that this server cannot honour."""

from __future__ import annotations

import json
import secrets
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from ui.serving.errors import ApiError

if TYPE_CHECKING:
    from composer.generation.sampling import Sampling

# Options that change a reply and are not supported, with the values that change nothing. Others are ignored.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "best_of": (1,),
    "echo": (False,),
    "suffix": ("",),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "logit_bias": ({},),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "tools": ([],),
    "functions": ([],),
    "tool_choice": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
}
COMPLETION_TOKENS = 16  # OpenAI's default for completions


class StreamOptions(BaseModel):
    """Options of a streamed reply."""

    include_usage: bool | None = False


class Request(BaseModel):
    """Fields of every request. `top_k` and `active_experts` are extensions; None is the default everywhere."""

    model_config = ConfigDict(extra="allow", strict=True)

    model: str
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    active_experts: list[str] | None = None

    @property
    def wanted_tokens(self) -> int | None:
        """Requested maximum length of the reply."""
        return self.max_tokens

    @property
    def usage_in_stream(self) -> bool:
        """Whether a streamed reply ends with the token counts."""
        return bool(self.stream_options and self.stream_options.include_usage)

    def sampling(self, most_tokens: int) -> Sampling:
        """Return the sampling settings, of at most `most_tokens`. Raises ApiError, RecipeError."""
        from composer.generation.sampling import MOST_SEEDS, Sampling

        wanted = self.wanted_tokens
        if wanted is not None and wanted > most_tokens:
            raise ApiError(
                400,
                f"{wanted} tokens are requested, but this server writes at most {most_tokens} per reply: request "
                "fewer, or start the server with a larger --max-tokens",
                param="max_tokens",
            )
        stop = [self.stop] if isinstance(self.stop, str) else self.stop or []
        seed = secrets.randbelow(MOST_SEEDS) if self.seed is None else self.seed % MOST_SEEDS
        given = {"temperature": self.temperature, "top_p": self.top_p, "top_k": self.top_k}
        return Sampling(
            max_new_tokens=most_tokens if wanted is None else wanted,
            random_seed=seed,
            stop=tuple(text for text in stop if text),
            **{name: value for name, value in given.items() if value is not None},  # type: ignore[arg-type]
        )


class CompletionRequest(Request):
    """A request to continue a text."""

    prompt: str | list[str] | list[int]

    @property
    def wanted_tokens(self) -> int | None:
        """Requested maximum length; as OpenAI's, 16 tokens by default."""
        return COMPLETION_TOKENS if self.max_tokens is None else self.max_tokens

    def single_prompt(self) -> str | list[int]:
        """Return the prompt as text or token ids. Raises ApiError for several prompts."""
        if isinstance(self.prompt, str):
            return self.prompt
        texts = [each for each in self.prompt if isinstance(each, str)]
        if not texts:
            return [each for each in self.prompt if isinstance(each, int)]
        if len(texts) > 1:
            raise ApiError(400, f"prompt has {len(texts)} texts; send one per request", param="prompt")
        return texts[0]


AnyRequest = TypeVar("AnyRequest", bound=Request)


def parse(body: bytes, kind: type[AnyRequest]) -> AnyRequest:
    """Read a request. Raises ApiError."""
    from registry.checkpoints.safe_files import refuse_unwritable
    from registry.errors import UnsafeFileError

    try:
        content = json.loads(body)
        refuse_unwritable(content, "the request")
        request = kind.model_validate(content)
    except UnsafeFileError as error:
        raise ApiError(400, str(error)) from error
    except ValidationError as error:
        raise _invalid(error) from error
    except (ValueError, RecursionError) as error:
        raise ApiError(400, "the body is not valid JSON; expected a JSON object in UTF-8") from error
    for name, value in (request.model_extra or {}).items():
        if name in NEUTRAL and value is not None and value not in NEUTRAL[name]:
            raise ApiError(
                400,
                f"{name} is not supported by this server: omit it",
                code="unsupported_parameter",
                param=name,
            )
    return request


def _invalid(error: ValidationError) -> ApiError:
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    path = ".".join(str(part) for part in first["loc"]) or None
    return ApiError(400, f"{path or 'the body'}: {first['msg']}", param=path)
