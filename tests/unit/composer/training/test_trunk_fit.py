"""The trunk in closed form: nearest to each expert on its own text, and no fit for equal trunks."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pico
import pytest
import torch

from composer.mix.domains import Domain
from composer.model.modeling import NexusConfig, NexusForCausalLM
from composer.resources import memory_limit
from composer.training.warm_start.trunk import Source, fit_trunk, linear_layers

FOLDER = Path(tempfile.gettempdir())  # of sums without room in memory
LOW, HIGH = range(3, 100), range(100, 200)


class Numbers:
    """A tokenizer whose texts are lists of token ids."""

    def __call__(self, text: str | list[str], max_length: int = 10_000, **_: Any) -> dict[str, Any]:
        if isinstance(text, str):
            return {"input_ids": [int(word) for word in text.split()][:max_length]}
        return {"input_ids": [self(each, max_length)["input_ids"] for each in text]}


def domain(name: str, tokens: range) -> Domain:
    generator = torch.Generator().manual_seed(len(name))
    ids = torch.randint(tokens.start, tokens.stop, (40, 60), generator=generator)
    texts = [" ".join(map(str, row)) for row in ids.tolist()]
    return Domain(name, torch.zeros(4), torch.zeros(40, 4), texts)


def closed(name: str) -> Domain:
    return Domain(name, torch.zeros(4), torch.zeros(1, 4), [])


def dense(noise: int | None) -> Any:
    """The pico seed, or an expert: the seed with noise."""
    model = pico.pico_model()
    generator = torch.Generator().manual_seed(noise or 0)
    with torch.no_grad():
        for parameter in model.parameters() if noise is not None else ():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model


def mix_of(experts: list[Any]) -> NexusForCausalLM:
    """A mix whose trunk is the mean of the experts'."""
    config = experts[0].config
    mix = NexusForCausalLM(
        NexusConfig(
            text_config=config.to_dict(), experts=["a@1"], ffn_widths=[config.intermediate_size], domain_dim=4
        )
    )
    states = [expert.state_dict() for expert in experts]
    for name, tensor in mix.state_dict().items():
        if ".mlp." not in name:
            plain = name.removeprefix("language_model.")
            tensor.copy_(torch.stack([state[plain] for state in states]).mean(dim=0))
    return mix.eval()


def fit(experts: list[Any], domains: list[Domain]) -> NexusForCausalLM:
    mix = mix_of(experts)
    sources = [Source(lambda e=e: e, [d]) for e, d in zip(experts, domains, strict=True)]
    fit_trunk(mix, Numbers(), sources, random_seed=0, folder=FOLDER)
    return mix


@pytest.fixture(scope="module")
def experts() -> list[Any]:
    return [dense(1), dense(2)]


def distance(mix: NexusForCausalLM, expert: Any, domain: Domain) -> float:
    """Distance of the first block's queries from an expert's, on the expert's own inputs."""
    name = "model.layers.0.self_attn.q_proj"
    seen: list[torch.Tensor] = []
    handle = linear_layers(expert)[name].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with torch.inference_mode():
        for text in domain.documents:
            expert(torch.tensor([Numbers()(text)["input_ids"]]))
    handle.remove()
    x = torch.cat([each.flatten(0, 1) for each in seen])
    weights = [linear_layers(model)[name].weight.detach() for model in (mix, expert)]
    return float((x @ (weights[0] - weights[1]).T).square().mean())


def test_a_fitted_layer_is_nearer_to_the_experts_on_their_own_text_than_the_mean(experts: list[Any]) -> None:
    domains = [domain("low", LOW), domain("other", HIGH)]
    fitted, mean = fit(experts, domains), mix_of(experts)
    errors = [sum(distance(m, e, d) for e, d in zip(experts, domains, strict=True)) for m in (fitted, mean)]
    assert errors[0] < 0.95 * errors[1]


def test_a_tokens_row_comes_from_the_expert_whose_text_has_it(experts: list[Any]) -> None:
    fitted = fit(experts, [domain("low", LOW), domain("other", HIGH)])
    rows = fitted.get_input_embeddings().weight
    for expert, tokens in zip(experts, (LOW, HIGH), strict=True):
        own = expert.get_input_embeddings().weight[tokens.start : tokens.stop]
        torch.testing.assert_close(rows[tokens.start : tokens.stop], own, rtol=0.02, atol=2e-3)
    unseen = torch.stack([expert.get_input_embeddings().weight[250] for expert in experts]).mean(dim=0)
    torch.testing.assert_close(rows[250], unseen)


def test_equal_trunks_stay_as_they_are(experts: list[Any]) -> None:
    fitted = fit([experts[0], experts[0]], [domain("low", LOW), domain("other", HIGH)])
    state = experts[0].state_dict()
    for name, tensor in fitted.state_dict().items():
        if ".mlp." not in name:
            torch.testing.assert_close(
                tensor, state[name.removeprefix("language_model.")], rtol=1e-3, atol=1e-4
            )


def test_an_expert_without_text_counts_as_if_it_had_the_others(experts: list[Any]) -> None:
    fitted = fit(experts, [closed("secret"), domain("low", LOW)])
    mean = mix_of(experts)
    name = "model.layers.1.self_attn.v_proj"
    torch.testing.assert_close(
        linear_layers(fitted)[name].weight, linear_layers(mean)[name].weight, rtol=1e-3, atol=1e-4
    )


def test_without_any_text_the_merge_stays(experts: list[Any]) -> None:
    fitted, mean = fit(experts, [closed("one"), closed("two")]), mix_of(experts)
    for name, tensor in fitted.state_dict().items():
        if ".mlp." not in name:
            assert torch.equal(tensor, mean.state_dict()[name])


def test_a_mix_has_the_weight_of_all_its_experts(experts: list[Any]) -> None:
    mix, new = mix_of([experts[0]]), experts[1]
    target = mix_of([experts[0], experts[0], experts[0], new])
    same = domain("low", LOW)
    old = Source(lambda: mix_of([experts[0]]), [same], weight=3)
    fit_trunk(mix, Numbers(), [old, Source(lambda: new, [closed("new")])], random_seed=0, folder=FOLDER)
    name = "model.layers.0.self_attn.q_proj"
    torch.testing.assert_close(
        linear_layers(mix)[name].weight, linear_layers(target)[name].weight, rtol=0.02, atol=2e-3
    )


def test_sums_without_room_in_memory_give_the_same_trunk(experts: list[Any]) -> None:
    domains = [domain("low", LOW), domain("high", HIGH)]
    roomy = fit(experts, domains).state_dict()
    with memory_limit(1):
        frugal = fit(experts, domains).state_dict()
    for name, tensor in roomy.items():
        assert ".mlp." in name or torch.equal(tensor, frugal[name]), name
