"""Text generation from a mix or its seed, with the routing of each token."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields

import torch
from transformers.modeling_outputs import CausalLMOutputWithPast

from composer.mix.masking import mask, places
from composer.mix.opening import OpenMix, OpenSeed, find_mix, open_mix
from registry.home import Registry

# Name of the key-value cache in model inputs and outputs: transformers renamed it in 5.24.
CACHE = "cache" if "cache" in {field.name for field in fields(CausalLMOutputWithPast)} else "past_key_values"


@dataclass(frozen=True)
class Token:
    """Text and routing of a generated token.

    `experts`: each expert's share of the choices that all blocks made for the prediction of this token. `blocks`: for
    each block, the weights of the experts that it chose. Both are empty for a dense model.
    """

    text: str
    experts: dict[str, float]
    blocks: list[dict[str, float]]


@dataclass(frozen=True)
class Generation:
    """Text and tokens generated after the prompt."""

    text: str
    tokens: list[Token]


def generate(
    registry: Registry,
    mix_ref: str,
    prompt: str,
    *,
    max_new_tokens: int = 64,
    temperature: float = 0.8,
    random_seed: int = 0,
    active_experts: Sequence[str] | None = None,
    on_token: Callable[[Token], None] | None = None,
) -> Generation:
    """Open a mix and continue `prompt`; temperature 0 is greedy decoding.

    `active_experts` masks all other experts. Masking is not removal: the averaged trunk still contains the masked
    experts' influence. To remove an expert, use `remove`. Raises NotFoundError, IntegrityError, RecipeError
    (`active_experts` that are not members).
    """
    _, manifest = find_mix(registry, mix_ref)
    return continue_text(
        open_mix(registry, manifest),
        prompt,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        random_seed=random_seed,
        active_experts=active_experts,
        on_token=on_token,
    )


def continue_text(
    opened: OpenMix | OpenSeed,
    prompt: str,
    *,
    max_new_tokens: int = 64,
    temperature: float = 0.8,
    random_seed: int = 0,
    active_experts: Sequence[str] | None = None,
    on_token: Callable[[Token], None] | None = None,
) -> Generation:
    """Continue `prompt` with an open mix or seed, and pass each token to `on_token` when it is generated.

    `active_experts`: see `generate`. Raises RecipeError.
    """
    tokens = []
    for token in stream_text(
        opened,
        prompt,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        random_seed=random_seed,
        active_experts=active_experts,
    ):
        tokens.append(token)
        if on_token is not None:
            on_token(token)
    return Generation("".join(token.text for token in tokens), tokens)


@torch.inference_mode()
def stream_text(
    opened: OpenMix | OpenSeed,
    prompt: str,
    *,
    max_new_tokens: int = 64,
    temperature: float = 0.8,
    random_seed: int = 0,
    active_experts: Sequence[str] | None = None,
) -> Iterator[Token]:
    """Yield the tokens that continue `prompt`. Each is computed on request, so two models can generate in turns.

    The prompt is used unchanged, without the tokenizer's chat template. `active_experts` applies to mixes only, see
    `generate`. Raises RecipeError.
    """
    tokenizer, model = opened.tokenizer, opened.model
    active = places(opened.manifest, active_experts) if isinstance(opened, OpenMix) else None
    generator = torch.Generator(model.device).manual_seed(random_seed)
    ids = tokenizer(prompt, return_tensors="pt")["input_ids"].to(model.device)
    if ids.shape[1] == 0:
        ids = torch.tensor([[tokenizer.eos_token_id or 0]], device=model.device)
    written: list[int] = []
    shown = ""
    cache = None
    for _ in range(max_new_tokens):
        with mask(model, active):
            output = model(input_ids=ids, use_cache=True, logits_to_keep=1, **{CACHE: cache})
        cache = output[CACHE]
        next_id = _sample(output.logits[0, -1].float(), temperature, generator)
        if next_id == tokenizer.eos_token_id:
            break
        written.append(next_id)
        text = tokenizer.decode(written, clean_up_tokenization_spaces=False)
        # A character may span several tokens; it is shown with the token that completes it.
        piece = "" if text.endswith("\ufffd") else text[len(shown) :]
        shown += piece
        yield Token(piece, *_routing(opened))
        ids = torch.tensor([[next_id]], device=model.device)


def _sample(logits: torch.Tensor, temperature: float, generator: torch.Generator) -> int:
    if temperature <= 0:
        return int(logits.argmax())
    return int(torch.multinomial((logits / temperature).softmax(dim=-1), 1, generator=generator))


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
