"""Generate text from a mix, and say which expert each token was routed to.

Shape suffixes: N routed experts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from composer.masking import mask, places
from composer.mix import OpenMix, find_mix, open_mix
from registry.home import Registry


@dataclass(frozen=True)
class Token:
    """A generated token's text and the share of blocks that routed its prediction to each expert."""

    text: str
    experts: dict[str, float]


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


@torch.inference_mode()
def continue_text(
    mix: OpenMix,
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
    tokenizer, model = mix.tokenizer, mix.model
    refs = [member.expert.ref for member in mix.manifest.members]
    active = places(mix.manifest, active_experts)
    generator = torch.Generator(model.device).manual_seed(random_seed)
    ids = tokenizer(prompt, return_tensors="pt")["input_ids"].to(model.device)
    if ids.shape[1] == 0:
        ids = torch.tensor([[tokenizer.eos_token_id or 0]], device=model.device)
    written: list[int] = []
    tokens: list[Token] = []
    shown = ""
    cache = None
    for _ in range(max_new_tokens):
        with mask(model, active):
            output = model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
        cache = output.past_key_values
        next_id = _sample(output.logits[0, -1].float(), temperature, generator)
        if next_id == tokenizer.eos_token_id:
            break
        written.append(next_id)
        text = tokenizer.decode(written, clean_up_tokenization_spaces=False)
        # A character may span tokens; what is not complete yet is shown with the token that completes it.
        piece = "" if text.endswith("\ufffd") else text[len(shown) :]
        shown += piece
        tokens.append(Token(piece, _routing(mix, refs)))
        if on_token is not None:
            on_token(tokens[-1])
        ids = torch.tensor([[next_id]], device=model.device)
    return Generation(shown, tokens)


def _sample(logits: torch.Tensor, temperature: float, generator: torch.Generator) -> int:
    if temperature <= 0:
        return int(logits.argmax())
    return int(torch.multinomial((logits / temperature).softmax(dim=-1), 1, generator=generator))


def _routing(mix: OpenMix, refs: list[str]) -> dict[str, float]:
    """The share of blocks in which the last position chose each expert."""
    counts_N = torch.zeros(len(refs))
    for mixture in mix.model.mixtures():
        counts_N += torch.bincount(mixture.routing.chosen[-1].cpu(), minlength=len(refs))
    return dict(zip(refs, (counts_N / counts_N.sum()).tolist(), strict=True))
