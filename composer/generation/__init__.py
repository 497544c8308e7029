"""Text generation from a mix or its seed, with the routing of each token."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Generator, Sequence
from dataclasses import dataclass, field, fields
from typing import Literal

import torch
from transformers.modeling_outputs import CausalLMOutputWithPast

from composer.errors import PromptTooLongError, RecipeError
from composer.generation.pieces import Detokenizer, StopStrings
from composer.generation.sampling import Sampling, sampler
from composer.mix.masking import mask, places
from composer.mix.opening import OpenMix, OpenSeed, find_mix, open_mix
from registry.home import Registry

Finish = Literal["stop", "length"]
# Name of the key-value cache in model inputs and outputs: transformers renamed it in 5.24.
CACHE = "cache" if "cache" in {each.name for each in fields(CausalLMOutputWithPast)} else "past_key_values"


@dataclass(frozen=True)
class Token:
    """Text and routing of a generated token.

    `experts`: each expert's share of the choices that all blocks made for the prediction of this token. `blocks`: for
    each block, the weights of the experts that it chose. Both are empty for a dense model. `alternatives`: the
    likeliest tokens in its place with their probabilities at temperature 1, if they were asked for.
    """

    text: str
    experts: dict[str, float]
    blocks: list[dict[str, float]]
    alternatives: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class Generation:
    """Text and tokens generated after the prompt.

    `finish` is "length" if the generation reached its maximum length or the end of the model's context, otherwise
    "stop". `seconds` is its duration; it is not compared, because equal calls differ in it.
    """

    text: str
    tokens: list[Token]
    finish: Finish
    seconds: float = field(compare=False)

    @property
    def speed(self) -> float:
        """Tokens per second."""
        return len(self.tokens) / max(self.seconds, 1e-9)


def generate(
    registry: Registry,
    mix_ref: str,
    prompt: str,
    *,
    max_new_tokens: int = Sampling.max_new_tokens,
    temperature: float = Sampling.temperature,
    top_p: float = Sampling.top_p,
    top_k: int = Sampling.top_k,
    random_seed: int = Sampling.random_seed,
    stop: Sequence[str] = Sampling.stop,
    active_experts: Sequence[str] | None = None,
    on_token: Callable[[Token], None] | None = None,
) -> Generation:
    """Open a mix and continue `prompt`. `Sampling` describes the settings; temperature 0 is greedy decoding.

    `active_experts` masks all other experts. Masking is not removal: the averaged trunk still contains the masked
    experts' influence. To remove an expert, use `remove`. Raises NotFoundError, IntegrityError, RecipeError
    (a setting, `active_experts` that are not members, a prompt longer than the model's context).
    """
    sampling = Sampling(max_new_tokens, temperature, top_p, top_k, random_seed, tuple(stop))
    _, manifest = find_mix(registry, mix_ref)
    opened = open_mix(registry, manifest)
    return continue_text(opened, prompt, sampling, active_experts=active_experts, on_token=on_token)


def continue_text(
    opened: OpenMix | OpenSeed,
    prompt: str | Sequence[int],
    sampling: Sampling,
    *,
    ends: Collection[int] = (),
    active_experts: Sequence[str] | None = None,
    on_token: Callable[[Token], None] | None = None,
) -> Generation:
    """Continue a prompt with an open mix or seed, and pass each token to `on_token` when it is generated.

    Arguments and errors: see `stream_text`.
    """
    tokens: list[Token] = []
    started = time.perf_counter()
    stream = stream_text(opened, prompt, sampling, ends=ends, active_experts=active_experts)
    while True:
        try:
            token = next(stream)
        except StopIteration as end:
            seconds = time.perf_counter() - started
            return Generation("".join(token.text for token in tokens), tokens, end.value, seconds)
        tokens.append(token)
        if on_token is not None:
            on_token(token)


def prompt_ids(opened: OpenMix | OpenSeed, prompt: str) -> list[int]:
    """Encode a prompt. An empty one becomes one token, because a model needs a token to start from."""
    ids: list[int] = opened.tokenizer(prompt, verbose=False)["input_ids"]
    return ids or [opened.tokenizer.eos_token_id or 0]


def room_after(opened: OpenMix | OpenSeed, ids: Sequence[int]) -> int:
    """Return how many tokens fit between a prompt and the end of the model's context.

    Raises RecipeError if the prompt fills the context, or contains ids that are not in the vocabulary.
    """
    config = opened.model.config.get_text_config()
    if not all(0 <= each < config.vocab_size for each in ids):
        raise RecipeError(
            f"the prompt has token ids outside the vocabulary; expected 0 to {config.vocab_size - 1}"
        )
    if len(ids) >= config.max_position_embeddings:
        raise PromptTooLongError(
            f"the prompt has {len(ids)} tokens, but the model's context is {config.max_position_embeddings} "
            "and the reply needs at least one: shorten the prompt"
        )
    return config.max_position_embeddings - len(ids)


@torch.inference_mode()
def stream_text(
    opened: OpenMix | OpenSeed,
    prompt: str | Sequence[int],
    sampling: Sampling,
    *,
    ends: Collection[int] = (),
    active_experts: Sequence[str] | None = None,
    alternatives: int = 0,
) -> Generator[Token, None, Finish]:
    """Yield the tokens that continue a prompt, and return the reason of the end.

    Each token is computed on request, so two models can generate in turns. The prompt, text or token ids, is used
    unchanged, without a chat template. The model's end tokens and those in `ends` end the text.
    `active_experts` applies to mixes only, see `generate`. Each token has its likeliest `alternatives`, that many.

    Raises RecipeError, PromptTooLongError.
    """
    model = opened.model
    active = places(opened.manifest, active_experts) if isinstance(opened, OpenMix) else None
    ids = prompt_ids(opened, prompt) if isinstance(prompt, str) else list(prompt)
    length = min(sampling.max_new_tokens, room_after(opened, ids))
    sample = sampler(sampling)
    pieces, stops = Detokenizer(opened.tokenizer, ids), StopStrings(sampling.stop)
    last = {*opened.ends, *ends}
    cache = None
    for remaining in reversed(range(length)):
        inputs = torch.tensor([ids], device=model.device)
        with mask(model, active):
            output = model(input_ids=inputs, use_cache=True, logits_to_keep=1, **{CACHE: cache})
        cache = output[CACHE]
        logits = output.logits[0, -1].float()
        next_id = sample(logits)
        if next_id in last:
            if rest := stops.rest():
                yield Token(rest, *_routing(opened))
            return "stop"
        piece = stops.add(pieces.add(next_id))
        if remaining == 0 and not stops.found:
            piece += stops.rest()
        yield Token(piece, *_routing(opened), _likeliest(opened, logits, alternatives))
        if stops.found:
            return "stop"
        ids = [next_id]
    return "length"


def _likeliest(opened: OpenMix | OpenSeed, logits: torch.Tensor, count: int) -> tuple[tuple[str, float], ...]:
    """Return the texts and probabilities of the tokens with the largest logits [V]."""
    if not count:
        return ()
    top = logits.softmax(dim=-1).topk(min(count, len(logits)))
    return tuple(
        (opened.tokenizer.decode([token_id]), probability)
        for token_id, probability in zip(top.indices.tolist(), top.values.tolist(), strict=True)
    )


def _routing(opened: OpenMix | OpenSeed) -> tuple[dict[str, float], list[dict[str, float]]]:
    """Return the routing of the last position: each expert's share of all choices, and the choice of each block."""
    if isinstance(opened, OpenSeed):
        return {}, []
    refs = [member.expert.ref for member in opened.manifest.members]
    counts = dict.fromkeys(refs, 0)
    blocks = []
    for mixture in opened.model.mixtures():
        chosen, weights = (part[-1].tolist() for part in (mixture.routing.chosen, mixture.routing.weights))
        # An index past the last expert, or a weight of 0, means that no expert was chosen.
        taken = {
            refs[place]: w for place, w in zip(chosen, weights, strict=True) if place < len(refs) and w > 0
        }
        blocks.append(taken)
        for ref in taken:
            counts[ref] += 1
    total = max(1, sum(counts.values()))
    return {ref: count / total for ref, count in counts.items()}, blocks
