"""The API's routes as a Starlette app around one open mix."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine, Generator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, TypeVar

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Send

from composer.chat.conversation import Chat
from composer.errors import ChatTemplateError
from composer.generation import Finish, Token, prompt_ids, room_after, stream_text
from composer.mix.opening import OpenMix
from ui.serving.engine import End, Engine
from ui.serving.errors import ApiError, api_error
from ui.serving.replies import Reply, event
from ui.serving.requests import ChatRequest, CompletionRequest, Request, parse

BODY_SECONDS = 30.0
CLIENT_LEFT = 499  # nobody reads this answer
Result = TypeVar("Result")
Steps = AsyncGenerator[Token | End, None]


@dataclass(frozen=True)
class Limits:
    """Limits of the server: bytes of a request, tokens of a reply, and requests that wait for their turn."""

    request_bytes: int = 2**20
    reply_tokens: int = 1024
    waiting: int = 16


class Api:
    """The API on one mix. A client needs the key, or a token that `admits` accepts; without both, everyone may use it.

    `chat` is the mix with its chat template, or the reason why it has none.
    """

    def __init__(
        self,
        opened: OpenMix,
        name: str,
        *,
        chat: Chat | ChatTemplateError,
        created: int,
        key: str | None = None,
        admits: Callable[[str], bool] | None = None,
        limits: Limits | None = None,
    ) -> None:
        self.opened, self.name, self.created, self.key = opened, name, created, key
        self.admits = admits
        self.chat = chat
        self.limits = limits or Limits()
        self.engine = Engine(self.limits.waiting)
        self.log = logging.getLogger("nexusmix.serve")

    def app(self) -> Starlette:
        """Return the ASGI app."""
        post: dict[str, Any] = {"methods": ["POST"]}
        return Starlette(
            routes=[
                Route("/health", self._health),
                Route("/v1/models", self._answered(self._models)),
                Route("/v1/models/{name:path}", self._answered(self._model)),
                Route("/v1/completions", self._answered(self._complete), **post),
                Route("/v1/chat/completions", self._answered(self._converse), **post),
            ],
            exception_handlers={HTTPException: _refused},
        )

    async def _health(self, _request: HttpRequest) -> Response:
        return JSONResponse({"status": "ok"})

    async def _models(self, _request: HttpRequest) -> Response:
        return JSONResponse({"object": "list", "data": [self._card()]})

    async def _model(self, request: HttpRequest) -> Response:
        self._require_model(request.path_params["name"])
        return JSONResponse(self._card())

    async def _complete(self, request: HttpRequest) -> Response:
        asked = parse(await self._body(request), CompletionRequest)
        self._require_model(asked.model)
        prompt = asked.single_prompt()
        ids = prompt_ids(self.opened, prompt) if isinstance(prompt, str) else prompt
        room_after(self.opened, ids)
        sampling = asked.sampling(self.limits.reply_tokens)
        stream = stream_text(self.opened, ids, sampling, active_experts=asked.active_experts)
        return await self._reply(request, asked, stream, len(ids), chat=False)

    async def _converse(self, request: HttpRequest) -> Response:
        asked = parse(await self._body(request), ChatRequest)
        self._require_model(asked.model)
        if isinstance(self.chat, ChatTemplateError):
            raise self.chat
        messages = [message.plain() for message in asked.messages]
        sampling = asked.sampling(self.limits.reply_tokens)
        # In a thread: a rendering waits for another process.
        ids = await asyncio.to_thread(self.chat.prompt, messages)
        room_after(self.opened, ids)
        stream = await asyncio.to_thread(self.chat.stream, ids, sampling, active_experts=asked.active_experts)
        return await self._reply(request, asked, stream, len(ids), chat=True)

    async def _reply(
        self,
        request: HttpRequest,
        asked: Request,
        stream: Generator[Token, None, Finish],
        prompt_tokens: int,
        *,
        chat: bool,
    ) -> Response:
        """Answer with the text of a generation, whole or streamed."""
        reply = Reply(self.name, self._fingerprint(), prompt_tokens, chat)
        steps = self.engine.run(stream)
        if not asked.stream:
            return await _unless_gone(request, _whole(reply, steps))
        # The first token is awaited here, so that a refusal has its own status.
        first = await _unless_gone(request, anext(steps))
        if isinstance(first, Response):
            return first
        return EventStream(_events(reply, first, steps, asked.usage_in_stream, self.log))

    def _answered(self, work: Callable[[HttpRequest], Awaitable[Response]]) -> Callable[..., Any]:
        """Return an endpoint that requires the key and answers errors in OpenAI's shape."""

        async def endpoint(request: HttpRequest) -> Response:
            try:
                await self._require_key(request)
                return await work(request)
            except Exception as error:
                return _error(error, self.log)

        return endpoint

    async def _require_key(self, request: HttpRequest) -> None:
        if self.key is None and self.admits is None:
            return
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        given = given.strip()
        known = self.key is not None and hmac.compare_digest(given.encode(), self.key.encode())
        if not known and self.admits is not None:
            known = await asyncio.to_thread(self.admits, given)
        if scheme.lower() != "bearer" or not known:
            message = "the API key is missing or wrong; send it as 'Authorization: Bearer KEY'"
            raise ApiError(401, message, code="invalid_api_key")

    def _require_model(self, name: str) -> None:
        if name not in (self.name, self.name.partition("@")[0]):
            raise ApiError(
                404, f"this server has the model {self.name!r} only", code="model_not_found", param="model"
            )

    async def _body(self, request: HttpRequest) -> bytes:
        """Read the request's body, within the limits. A browser asks before it sends JSON to another site."""
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise ApiError(415, "expected the header 'Content-Type: application/json'")
        body = bytearray()
        try:
            async with asyncio.timeout(BODY_SECONDS):
                async for chunk in request.stream():
                    body += chunk
                    if len(body) > self.limits.request_bytes:
                        raise ApiError(413, f"the request is larger than {self.limits.request_bytes} bytes")
        except TimeoutError as error:
            raise ApiError(408, f"the request did not arrive within {BODY_SECONDS:.0f} seconds") from error
        return bytes(body)

    def _card(self) -> dict[str, Any]:
        members = [member.expert.ref for member in self.opened.manifest.members]
        return {
            "id": self.name,
            "object": "model",
            "created": self.created,
            "owned_by": "nexusmix",
            "nexusmix": {"seed": self.opened.manifest.seed.name, "experts": members},
        }

    def _fingerprint(self) -> str:
        return f"fp_{self.opened.manifest.lock.removeprefix('sha256:')[:12]}"


class EventStream(StreamingResponse):
    """Server-sent events. The generation ends as soon as the client leaves."""

    def __init__(self, events: AsyncGenerator[bytes, None]) -> None:
        super().__init__(events, media_type="text/event-stream", headers={"Cache-Control": "no-store"})
        self._events = events

    async def stream_response(self, send: Send) -> None:
        """Send the events, and close their generator in any case."""
        async with aclosing(self._events):
            await super().stream_response(send)


async def _whole(reply: Reply, steps: Steps) -> Response:
    async with aclosing(steps):
        async for step in steps:
            if isinstance(step, End):
                return JSONResponse(reply.whole(step.finish))
            reply.add(step)
    raise AssertionError("a generation ends with its reason")


async def _events(
    reply: Reply, first: Token | End, steps: Steps, with_usage: bool, log: logging.Logger
) -> AsyncGenerator[bytes, None]:
    async with aclosing(steps):
        if reply.chat:
            yield event(reply.opening())
        try:
            async for step in _after(first, steps):
                if isinstance(step, End):
                    yield event(reply.closing(step.finish))
                    break
                reply.add(step)
                if step.text:
                    yield event(reply.piece(step.text))
        except Exception as error:
            log.exception("generation failed")
            yield event(api_error(error).body())
            return
    if with_usage:
        yield event(reply.counts())
    yield event("[DONE]")


async def _after(first: Token | End, steps: Steps) -> AsyncIterator[Token | End]:
    yield first
    async for step in steps:
        yield step


async def _unless_gone(request: HttpRequest, work: Coroutine[Any, Any, Result]) -> Result | Response:
    """Await the work, and cancel it if the client leaves."""
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else Response(status_code=CLIENT_LEFT)
    finally:
        for each in (task, gone):
            each.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(task, gone, return_exceptions=True)


async def _gone(request: HttpRequest) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _error(error: Exception, log: logging.Logger) -> Response:
    answer = api_error(error)
    if answer.status >= 500:
        log.error("request failed", exc_info=error)
    return JSONResponse(answer.body(), answer.status, answer.headers())


async def _refused(_request: HttpRequest, error: Exception) -> Response:
    """Answer an unknown path or method."""
    assert isinstance(error, HTTPException)
    answer = ApiError(
        error.status_code, f"{error.detail}: see /v1/models, /v1/completions, /v1/chat/completions"
    )
    return JSONResponse(answer.body(), answer.status, error.headers)
