"""The API with OpenAI's own client, on mixes of both kinds."""

from __future__ import annotations

import json
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import openai
import pico
import pytest

from composer.composition import compose
from composer.generation import generate
from composer.mix.opening import find_mix, open_mix
from composer.mix.recipe import Recipe
from registry.home import Registry, open_registry
from registry.intake.intake import add_seed, contribute
from ui.serving.app import Api, Limits
from ui.serving.server import bound_socket, server_of, url_of

KEY = "correct-horse"
GREEDY: dict[str, Any] = {"temperature": 0}


@pytest.fixture(scope="module")
def mixes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """The mix `whole` of whole experts, and `merged` with one trunk."""
    root = tmp_path_factory.mktemp("served")
    registry = open_registry(root / "home", embedder="hashing:16")
    seed = pico.write_pico(root / "seed")
    add_seed(registry, "pico", seed, license="MIT")
    for number, name in enumerate(("code", "math"), 1):
        folder = pico.branch_pico(seed, root / name, seed=number, scale=0.1)
        data = pico.write_documents(root / f"{name}.jsonl", name)
        contribute(registry, name, folder, seed="pico", license="MIT", data=[data])
    untrained = {"training": {"warm_start": False, "tokens": 0}}
    for name, merge in {"whole": "routed", "merged": "mean"}.items():
        recipe = {"name": name, "seed": "pico", "experts": ["code", "math"], "trunk_merge": merge}
        compose(registry, Recipe.parse(recipe | (untrained if name == "merged" else {})))
    yield registry
    registry.engine.dispose()


@contextmanager
def served(registry: Registry, name: str, **options: Any) -> Iterator[str]:
    """Serve a mix in a thread; yields its URL."""
    _, manifest = find_mix(registry, name)
    api = Api(open_mix(registry, manifest), f"{name}@1", created=0, **options)
    with bound_socket("127.0.0.1", 0) as bound:
        server = server_of(api, "127.0.0.1")
        bound.listen()
        thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
        thread.start()
        yield url_of("127.0.0.1", bound)
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module", params=["whole", "merged"])
def name(request: pytest.FixtureRequest) -> str:
    """The mix's name."""
    return str(request.param)


@pytest.fixture(scope="module")
def url(mixes: Registry, name: str) -> Iterator[str]:
    """The URL of a server with a key and small limits."""
    with served(mixes, name, key=KEY, limits=Limits(request_bytes=4000, reply_tokens=40)) as address:
        yield address


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[openai.OpenAI]:
    """OpenAI's client with the right key."""
    with openai.OpenAI(base_url=url, api_key=KEY, max_retries=0) as opened:
        yield opened


def post(url: str, body: bytes, **headers: str) -> tuple[int, Any]:
    """Status and JSON of a raw request."""
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"} | headers
    request = urllib.request.Request(f"{url}/completions", body, headers)
    try:
        with urllib.request.urlopen(request) as response:
            return response.status, json.loads(response.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def test_the_model_list_names_the_mix_and_its_experts(client: openai.OpenAI, name: str) -> None:
    (model,) = client.models.list().data
    assert model.id == f"{name}@1" and model.model_extra["nexusmix"]["experts"] == ["code@1", "math@1"]
    assert client.models.retrieve(f"{name}@1").id == model.id
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("nobody")


def test_a_completion_is_the_text_that_the_mix_generates(
    client: openai.OpenAI, mixes: Registry, name: str
) -> None:
    own = generate(mixes, name, "def the", max_new_tokens=12, temperature=0)
    reply = client.completions.create(model=name, prompt="def the", max_tokens=12, **GREEDY)
    assert reply.choices[0].text == own.text and reply.choices[0].finish_reason == own.finish
    assert reply.usage.completion_tokens == len(own.tokens) and reply.usage.prompt_tokens > 0
    shares = reply.model_extra["nexusmix"]["experts"]
    count = len(own.tokens)
    assert shares == pytest.approx(
        {ref: sum(token.experts[ref] for token in own.tokens) / count for ref in ("code@1", "math@1")}
    )


def test_a_stream_joins_to_the_whole_reply_and_ends_with_shares_and_counts(
    client: openai.OpenAI, name: str
) -> None:
    asked: dict[str, Any] = {"model": name, "prompt": "def the", "max_tokens": 12, "seed": 3}
    whole = client.completions.create(**asked)
    *chunks, closing, counts = client.completions.create(
        **asked, stream=True, stream_options={"include_usage": True}
    )
    assert "".join(chunk.choices[0].text for chunk in chunks) == whole.choices[0].text
    assert closing.choices[0].finish_reason == whole.choices[0].finish_reason
    assert closing.model_extra["nexusmix"]["experts"] == whole.model_extra["nexusmix"]["experts"]
    assert counts.usage == whole.usage


def test_a_seed_repeats_a_reply_and_without_one_replies_differ(client: openai.OpenAI, name: str) -> None:
    def texts(**options: Any) -> set[str]:
        asked = {"model": name, "prompt": "def", "max_tokens": 20, "temperature": 1.5, **options}
        return {client.completions.create(**asked).choices[0].text for _ in range(3)}

    assert len(texts(seed=7)) == 1 and len(texts(seed=-7)) == 1 and len(texts()) > 1


def test_a_stop_string_ends_the_reply_and_is_not_in_it(client: openai.OpenAI, name: str) -> None:
    asked: dict[str, Any] = {"model": name, "prompt": "def the", "max_tokens": 40, "seed": 1}
    text = client.completions.create(**asked).choices[0].text
    stop = text[len(text) // 2 :][:2]
    stopped = client.completions.create(**asked, stop=stop)
    assert stopped.choices[0].text == text[: text.index(stop)]
    assert stopped.choices[0].finish_reason == "stop"
    streamed = client.completions.create(**asked, stop=[stop, "never"], stream=True)
    assert "".join(chunk.choices[0].text for chunk in streamed) == text[: text.index(stop)]


def test_a_reply_can_use_some_experts_only_and_a_prompt_of_token_ids(
    client: openai.OpenAI, name: str
) -> None:
    reply = client.completions.create(
        model=name, prompt=[70, 71, 72], max_tokens=4, extra_body={"active_experts": ["math"], "top_k": 3}
    )
    assert reply.usage.prompt_tokens == 3
    assert reply.model_extra["nexusmix"]["experts"]["code@1"] == 0


def test_a_reply_ends_at_the_end_of_the_context(client: openai.OpenAI, name: str) -> None:
    reply = client.completions.create(model=name, prompt=[70] * 250, max_tokens=40)
    assert reply.usage.completion_tokens <= 6


@pytest.mark.parametrize(
    ("change", "param", "code"),
    [
        ({"prompt": "xy" * 300}, None, "context_length_exceeded"),
        ({"prompt": [70] * 256}, None, "context_length_exceeded"),
        ({"prompt": [999_999]}, None, None),
        ({"prompt": [-1]}, None, None),
        ({"prompt": ["one", "two"]}, "prompt", None),
        ({"prompt": {"a": 1}}, "prompt", None),
        ({"max_tokens": 41}, "max_tokens", None),
        ({"max_tokens": 0}, None, None),
        ({"max_tokens": "many"}, "max_tokens", None),
        ({"temperature": -1}, None, None),
        ({"top_p": 0}, None, None),
        ({"extra_body": {"top_k": -1}}, None, None),
        ({"stop": ["a"] * 17}, None, None),
        ({"n": 2}, "n", "unsupported_parameter"),
        ({"extra_body": {"active_experts": ["nobody"]}}, None, None),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_a_request_that_cannot_be_answered_is_refused_with_its_reason(
    client: openai.OpenAI,
    name: str,
    change: dict[str, Any],
    param: str | None,
    code: str | None,
    stream: bool,
) -> None:
    asked = {"model": name, "prompt": "def", "max_tokens": 2, "stream": stream, **change}
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(**asked)
    assert caught.value.type == "invalid_request_error" and caught.value.code == code
    assert param is None or caught.value.param.split(".")[0] == param
    assert caught.value.body["message"]


def test_a_wrong_key_and_an_unknown_model_are_refused(url: str, client: openai.OpenAI) -> None:
    for key in ("wrong", KEY + "x"):
        with openai.OpenAI(base_url=url, api_key=key, max_retries=0) as stranger:
            with pytest.raises(openai.AuthenticationError) as caught:
                stranger.models.list()
            assert caught.value.code == "invalid_api_key"
    assert post(url, b"{}", Authorization="Bearer clé")[0] == 401
    with pytest.raises(openai.NotFoundError) as missing:
        client.completions.create(model="gpt-5", prompt="x")
    assert missing.value.code == "model_not_found"


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b"{", {}, 400),
        (b"[" * 3000, {}, 400),
        (b"[]", {}, 400),
        (b'{"model": "m", "prompt": "\\ud800"}', {}, 400),
        (b'{"model": "m", "prompt": "x", "temperature": NaN}', {}, 400),
        (b"x" * 4001, {}, 413),
        (b"{}", {"Content-Type": "text/plain"}, 415),
    ],
)
def test_a_body_that_is_no_request_is_refused(
    url: str, name: str, body: bytes, headers: dict[str, str], status: int
) -> None:
    answer = post(url, body.replace(b'"m"', f'"{name}"'.encode()), **headers)
    assert answer[0] == status and answer[1]["error"]["message"]


def test_an_unknown_path_and_a_wrong_method_have_openais_shape(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.embeddings.create(model="m", input="x")
    assert "/v1/models" in caught.value.body["message"]
    with pytest.raises(openai.APIStatusError) as wrong:
        client.delete("/models", cast_to=object)
    assert wrong.value.status_code == 405


def test_a_client_that_leaves_ends_its_generation_and_frees_its_place(mixes: Registry) -> None:
    with served(mixes, "merged", limits=Limits(reply_tokens=250, waiting=0)) as url:
        with openai.OpenAI(base_url=url, api_key="any", max_retries=0) as first:
            asked: dict[str, Any] = {"model": "merged", "prompt": "def", "max_tokens": 250, "seed": 1}
            stream = first.completions.create(**asked, extra_body={"top_k": 0}, stream=True)
            next(iter(stream))
            with pytest.raises(openai.RateLimitError) as caught:
                first.completions.create(**asked)
            assert caught.value.code == "queue_full"
            stream.close()
        with openai.OpenAI(base_url=url, api_key="any", max_retries=8) as second:
            asked["max_tokens"] = 3
            assert second.completions.create(**asked).usage.completion_tokens <= 3


def test_requests_that_wait_are_answered_in_turn(mixes: Registry) -> None:
    with served(mixes, "merged") as url, openai.OpenAI(base_url=url, api_key="any", max_retries=0) as client:
        found: list[str] = []

        def ask() -> None:
            asked = {"model": "merged", "prompt": "def", "max_tokens": 8, "seed": 5}
            found.append(client.completions.create(**asked).choices[0].text)

        threads = [threading.Thread(target=ask) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(found) == 6 and len(set(found)) == 1


def test_without_a_key_only_the_machines_own_names_are_answered(mixes: Registry) -> None:
    with served(mixes, "merged") as url, openai.OpenAI(base_url=url, api_key="any", max_retries=0) as client:
        assert client.models.list().data
        with pytest.raises(openai.PermissionDeniedError):
            client.models.list(extra_headers={"Host": "evil.example"})


def test_a_taken_port_is_a_conflict(tmp_path: Path) -> None:
    from registry.errors import ConflictError

    with bound_socket("127.0.0.1", 0) as bound:
        bound.listen()
        with pytest.raises(ConflictError, match="--port"):
            bound_socket("127.0.0.1", bound.getsockname()[1])
