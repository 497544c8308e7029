"""Generate text from a mix or its seed, and say which expert each token was routed to."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields

import torch
from transformers.modeling_outputs import CausalLMOutputWithPast

from composer.mix.masking import mask, places
from composer.mix.opening import OpenMix, OpenSeed, find_mix, open_mix
from registry.home import Registry

# What models call their key-value cache: transformers renamed it in 5.24.
CACHE = "cache" if "cache" in {field.name for field in fields(CausalLMOutputWithPast)} else "past_key_values"


@dataclass(frozen=True)
class Token:
    """A generated token's text, the share of blocks that routed its prediction to each expert, and each block's choice.

    `blocks` holds, for every block, the weights of the experts that it chose; both are empty for a dense model.
    """

    text: str
    experts: dict[str, float]
    blocks: list[dict[str, float]]


@dataclass(frozen=True)
class Generation:
    """What was generated after the prompt."""

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
    """Open a mix and continue `prompt`; temperature 0 is greedy.

    `active_experts` masks all others: masking is not removal, the expert's influence on the averaged trunk stays;
    use `remove`. Raises NotFoundError, IntegrityError, RecipeError (`active_experts` that are no members).
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
    """Continue `prompt` with an open mix, one token at a time, each shown to `on_token` as it comes.

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
    """The tokens that continue `prompt`, each computed when it is asked for, so that two models can take turns.

    The tokenizer's chat template is not rendered: the prompt stands as it is. `active_experts` is for mixes, see
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
        # A character may span tokens; what is not complete yet is shown with the token that completes it.
        piece = "" if text.endswith("\ufffd") else text[len(shown) :]
        shown += piece
        yield Token(piece, *_routing(opened))
        ids = torch.tensor([[next_id]], device=model.device)


def _sample(logits: torch.Tensor, temperature: float, generator: torch.Generator) -> int:
    if temperature <= 0:
        return int(logits.argmax())
    return int(torch.multinomial((logits / temperature).softmax(dim=-1), 1, generator=generator))


def _routing(opened: OpenMix | OpenSeed) -> tuple[dict[str, float], list[dict[str, float]]]:
    """Where the last position went: the share of blocks that chose each expert, and the choice of each block."""
    if isinstance(opened, OpenSeed):
        return {}, []
    refs = [member.expert.ref for member in opened.manifest.members]
    counts = dict.fromkeys(refs, 0)
    blocks = []
    for mixture in opened.model.mixtures():
        chosen, weights = (part[-1].tolist() for part in (mixture.routing.chosen, mixture.routing.weights))
        # a place past the last expert's or a weight of 0 is a choice of none
        taken = {
            refs[place]: w for place, w in zip(chosen, weights, strict=True) if place < len(refs) and w > 0
        }
        blocks.append(taken)
        for ref in taken:
            counts[ref] += 1
    total = max(1, sum(counts.values()))
    return {ref: count / total for ref, count in counts.items()}, blocks
