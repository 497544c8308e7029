"""Routers that read running means over the prefix: the formula, cached and padded passes, in every family."""

import copy

import pico
import pytest
import torch
from torch.nn.functional import linear

from composer.generation import CACHE
from composer.model.modeling import NexusConfig, NexusForCausalLM
from composer.model.prefix import attention_input, attention_of, eps_of, norm_before_ffn
from composer.model.routers.nexus_context import NexusContextRouter
from registry.checkpoints.families import FAMILIES

LENGTH = 16
FAMILY_SETTINGS = {
    **{family: (family, {}) for family in FAMILIES},
    "gemma2-window": ("gemma2", {"sliding_window": 4}),
    "gpt_neox-serial": ("gpt_neox", {"use_parallel_residual": False}),
}


def context_mix(family="llama", *, experts=3, strength=4.0, **settings):
    """A mix of pico weights whose routing depends on the state and, more, on the context."""
    dense = pico.pico_model(family, initializer_range=0.2, **settings)
    config = NexusConfig(
        text_config=dense.config.to_dict(),
        experts=[f"e{j}@1" for j in range(experts)],
        ffn_widths=[dense.config.intermediate_size] * experts,
        domain_dim=8,
        router="nexus_context",
    )
    mix = NexusForCausalLM(config).eval()
    own = mix.state_dict()
    generator = torch.Generator().manual_seed(1)
    for name, tensor in dense.state_dict().items():
        head, found, tail = name.partition(".mlp.")
        if not found:
            own[f"language_model.{name}"].copy_(tensor)
            continue
        for place in ("shared", *(f"experts.{j}" for j in range(experts))):
            noise = torch.randn(tensor.shape, generator=generator) * 0.2
            own[f"language_model.{head}.mlp.{place}.{tail}"].copy_(tensor + noise)
    for mixture in mix.mixtures():
        router = mixture.router
        router.reset_parameters(generator)
        router.domains.copy_(torch.randn(router.domains.shape, generator=generator))
        for tensor, std in ((router.w2, 0.3), (router.readout, strength), (router.directions, 0.3)):
            tensor.data.copy_(torch.randn(tensor.shape, generator=generator) * std)
    return mix


@pytest.fixture(scope="module", params=FAMILY_SETTINGS)
def mix(request):
    family, settings = FAMILY_SETTINGS[request.param]
    return context_mix(family, **settings)


@pytest.fixture(scope="module")
def llama():
    return context_mix()


@pytest.fixture(scope="module")
def ids():
    return torch.randint(3, 260, (2, LENGTH), generator=torch.Generator().manual_seed(0))


def choices(mix, ids):
    """Experts [blocks, B, S] of the last pass."""
    return torch.stack([mixture.routing.chosen.view_as(ids) for mixture in mix.mixtures()])


@torch.inference_mode()
def test_the_scores_are_those_of_the_state_and_of_means_over_the_prefix(mix, ids):
    seen, streams, handles = {}, {}, []
    for number, block in enumerate(mix.blocks()):
        norm = norm_before_ffn(block) or block.mlp
        handles += [
            attention_of(block).register_forward_pre_hook(
                lambda m, args, kwargs, n=number: seen.update({n: attention_input(args, kwargs)}),
                with_kwargs=True,
            ),
            norm.register_forward_pre_hook(lambda m, args, n=number: streams.update({n: args[0]})),
            block.mlp.register_forward_pre_hook(lambda m, args, n=number: seen.update({("x", n): args[0]})),
        ]
    mix(ids)
    for handle in handles:
        handle.remove()
    for number, (block, mixture) in enumerate(zip(mix.blocks(), mix.mixtures(), strict=True)):
        eps = eps_of(norm_before_ffn(block))
        gate_x, gate_c = mixture.router.gate().split([32, 1 + 3 * (number + 1)], dim=1)
        for row in range(2):
            for t in range(LENGTH):
                means = [
                    (seen[k][row, : t + 1] @ mix.mixtures()[k].router.directions.T).mean(dim=0)
                    for k in range(number + 1)
                ]
                by_expert = torch.stack(means, dim=1).flatten()
                square = streams[number][row, t].square().mean()
                features = torch.cat([torch.ones(1), by_expert]) * (square + eps).rsqrt()
                expected = gate_x @ seen["x", number][row, t] + gate_c @ features
                found = mixture.routing.logits.view(2, LENGTH, -1)[row, t]
                torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@torch.inference_mode()
def test_the_same_state_in_another_context_may_go_to_another_expert(llama, ids):
    llama(ids)
    before = choices(llama, ids)
    other = ids.clone()
    other[:, :8] = torch.randint(3, 260, (2, 8), generator=torch.Generator().manual_seed(5))
    llama.mixtures()[0].router.readout.data[0] = 0
    llama(other)
    assert (choices(llama, ids)[:, :, 8:] != before[:, :, 8:]).any()


@torch.inference_mode()
def test_a_cached_pass_in_chunks_chooses_and_computes_as_one_pass_does(mix, ids):
    whole = mix(ids).logits
    expected = choices(mix, ids)
    assert expected.unique().numel() > 1
    cache, logits, found = None, [], []
    for start, stop in ((0, 5), (5, 6), (6, 7), (7, LENGTH)):
        output = mix(ids[:, start:stop], use_cache=True, **{CACHE: cache})
        cache = output[CACHE]
        logits.append(output.logits)
        found.append(choices(mix, ids[:, start:stop]))
    assert torch.equal(torch.cat(found, dim=2), expected)
    torch.testing.assert_close(torch.cat(logits, dim=1), whole, atol=5e-5, rtol=0)


@torch.inference_mode()
def test_padding_on_the_left_changes_no_choice_and_no_logit(mix, ids):
    whole = mix(ids).logits
    expected = choices(mix, ids)
    pad = 5
    padded = torch.cat([torch.full((2, pad), 2), ids], dim=1)
    mask = (torch.arange(pad + LENGTH) >= pad).long().expand(2, -1)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    output = mix(padded, attention_mask=mask, position_ids=positions)
    assert torch.equal(choices(mix, padded)[:, :, pad:], expected)
    torch.testing.assert_close(output.logits[:, pad:], whole, atol=5e-5, rtol=0)
    # The same in two cached passes, the first of which ends inside the text.
    cut = pad + 4
    first = mix(
        padded[:, :cut], attention_mask=mask[:, :cut], position_ids=positions[:, :cut], use_cache=True
    )
    rest = mix(
        padded[:, cut:],
        attention_mask=mask,
        position_ids=positions[:, cut:],
        use_cache=True,
        **{CACHE: first[CACHE]},
    )
    torch.testing.assert_close(rest.logits, whole[:, cut - pad :], atol=5e-5, rtol=0)


@pytest.mark.parametrize("search", [{}, {"num_beams": 3}])
def test_generation_with_a_cache_writes_what_generation_without_one_writes(llama, ids, search):
    written = [
        llama.generate(ids, max_new_tokens=10, do_sample=False, eos_token_id=None, use_cache=cached, **search)
        for cached in (True, False)
    ]
    assert torch.equal(*written)


def test_a_batch_with_padding_generates_what_each_text_generates_alone(llama, ids):
    settings = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None, "pad_token_id": 2}
    short = ids[1:, 6:]
    padded = torch.cat([ids[:1], torch.cat([torch.full((1, 6), 2), short], dim=1)])
    mask = torch.ones_like(padded)
    mask[1, :6] = 0
    both = llama.generate(padded, attention_mask=mask, **settings)[:, LENGTH:]
    alone = [llama.generate(text, **settings)[0, text.shape[1] :] for text in (ids[:1], short)]
    assert torch.equal(both, torch.stack(alone))


@torch.inference_mode()
def test_a_cropped_cache_resumes_from_the_token_that_is_left(llama, ids):
    whole = llama(ids).logits
    cache = llama(ids[:, :10], use_cache=True)[CACHE]
    cache.crop(-4)
    rest = llama(ids[:, 6:], use_cache=True, **{CACHE: cache}).logits
    torch.testing.assert_close(rest, whole[:, 6:], atol=2e-5, rtol=0)


@torch.inference_mode()
def test_a_reordered_cache_resumes_each_row_from_its_new_beam(llama, ids):
    whole = llama(ids).logits
    cache = llama(ids[:, :10], use_cache=True)[CACHE]
    cache.reorder_cache(torch.tensor([1, 0]))
    rest = llama(ids[[1, 0], 10:], use_cache=True, **{CACHE: cache}).logits
    torch.testing.assert_close(rest, whole[[1, 0], 10:], atol=2e-5, rtol=0)


@torch.inference_mode()
def test_a_copy_of_a_mix_reads_its_own_context(llama, ids):
    copied = copy.deepcopy(llama)
    logits = llama(ids).logits
    for mixture in copied.mixtures():
        mixture.router.directions.zero_()
    assert not torch.equal(copied(ids).logits, logits)
    assert torch.equal(llama(ids).logits, logits)


def test_recomputed_activations_give_the_same_gradients(ids):
    gradients = []
    for recompute in (False, True):
        mix = context_mix().train()
        if recompute:
            mix.gradient_checkpointing_enable()
        mix(ids, labels=ids).loss.backward()
        gradients.append({n: p.grad for n, p in mix.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    assert any("router.readout" in name for name in gradients[0])
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, atol=1e-6, rtol=1e-5)


def test_the_router_is_the_nexus_router_until_its_directions_are_solved():
    router = NexusContextRouter(6, 4, 2, block=1)
    router.reset_parameters(torch.Generator().manual_seed(0))
    assert router.gate().shape == (2, 6 + 1 + 2 * 2)
    x = torch.randn(5, 6, generator=torch.Generator().manual_seed(1))
    router.context = torch.zeros(5, 5)
    torch.testing.assert_close(router(x), linear(x, router.gate()[:, :6]))


def test_appending_an_expert_keeps_the_scores_of_the_others():
    router = NexusContextRouter(6, 4, 2, null_experts=1, block=1)
    generator = torch.Generator().manual_seed(0)
    router.reset_parameters(generator)
    router.domains.copy_(torch.randn(2, 4, generator=generator))
    router.readout.data.normal_(generator=generator)
    x, context = torch.randn(5, 6, generator=generator), torch.randn(5, 7, generator=generator)
    router.context = context[:, :5]
    before = router(x)[:, :2]
    router.append(torch.ones(4), generator)
    assert (router.directions.shape, router.readout.shape) == ((3, 6), (7, 6))
    router.context = context
    torch.testing.assert_close(router(x)[:, :2], before)


def test_a_pass_leaves_no_context_behind(llama, ids):
    llama(ids)
    assert all(mixture.router.context is None for mixture in llama.mixtures())


def test_a_router_that_nobody_gave_a_context_names_the_remedy():
    router = NexusContextRouter(6, 4, 2)
    with pytest.raises(RuntimeError, match="call the NexusForCausalLM"):
        router(torch.zeros(1, 6))
