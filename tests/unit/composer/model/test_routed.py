"""A routed trunk inside a model: each token passes through one whole expert, cached or not, in every family."""

import copy

import pico
import pytest
import torch
from library_warnings import library_warnings

from composer.generation import CACHE
from composer.model.modeling import NexusConfig, NexusForCausalLM
from composer.model.routed import NO_TOKEN, ContextRouter
from registry.checkpoints.families import FAMILIES

LENGTH = 16
FAMILY_SETTINGS = {
    **{family: (family, {}) for family in FAMILIES},
    "llama-tied": ("llama", {"tie_word_embeddings": True}),
    "gemma2-untied": ("gemma2", {"tie_word_embeddings": False, "sliding_window": 4}),
    # As many heads as tokens in a row: an axis is never guessed from its size.
    "gemma3-heads": (
        "gemma3_text",
        {"num_attention_heads": LENGTH, "num_key_value_heads": LENGTH, "head_dim": 4},
    ),
    "exaone4-heads": (
        "exaone4",
        {"num_attention_heads": LENGTH, "num_key_value_heads": LENGTH, "head_dim": 4},
    ),
    "exaone4-rotated": ("exaone4", {"sliding_window": None, "layer_types": ["full_attention"] * 2}),
    "smollm3-sliding": ("smollm3", {"use_sliding_window": True, "sliding_window": 4}),
    "cohere-norms": ("cohere", {"use_qk_norm": True}),
}


def routed(dense, *, seed_is_a_choice=True, evidence=2.0):
    """A mix of dense models, the last of them the seed, with random profiles."""
    settings = dense[-1].config
    experts = len(dense) - seed_is_a_choice
    config = NexusConfig(
        text_config=settings.to_dict(),
        experts=[f"e{j}@1" for j in range(experts)],
        ffn_widths=[model.config.intermediate_size for model in dense[:experts]],
        null_experts=int(seed_is_a_choice),
        routed_trunk=True,
    )
    mix = NexusForCausalLM(config).eval()
    state = mix.state_dict()
    for name, tensor in state.items():
        if "choices." in name:
            before, _, after = name.removeprefix("language_model.").partition("choices.")
            choice, _, rest = after.partition(".")
            tensor.copy_(dense[int(choice)].state_dict()[before + rest])
    generator = torch.Generator().manual_seed(3)
    for table in (mix.router.unigrams, mix.router.bigrams):
        table.copy_(torch.randn(table.shape, generator=generator) * evidence / mix.router.filter[0])
    return mix


@pytest.fixture(scope="module", params=FAMILY_SETTINGS)
def models(request):
    """Three dense models of one family."""
    family, settings = FAMILY_SETTINGS[request.param]
    return [pico.pico_model(family, seed=seed, **settings) for seed in range(3)]


@pytest.fixture(scope="module")
def llamas():
    return [pico.pico_model("llama", seed=seed) for seed in range(3)]


@pytest.fixture(scope="module")
def ids():
    return torch.randint(3, 260, (2, LENGTH), generator=torch.Generator().manual_seed(0))


def chosen(mix, ids):
    return mix.router.routing.chosen.view_as(ids)


@torch.inference_mode()
def test_a_forced_expert_is_its_dense_model_exactly(models, ids):
    mix = routed(models)
    for place, dense in enumerate(models):
        mix.router.forced = place
        assert torch.equal(mix(ids).logits, dense(ids).logits)


@torch.inference_mode()
def test_each_token_of_a_batch_passes_through_its_own_expert(models, ids):
    mix = routed(models)
    logits = mix(ids).logits
    assert chosen(mix, ids).unique().numel() == 3
    # The reference: one token at a time, each with its expert forced, over one shared cache.
    choices, cache, steps = chosen(mix, ids)[0].tolist(), None, []
    for t, choice in enumerate(choices):
        mix.router.forced = choice
        output = mix(ids[:1, t : t + 1], use_cache=True, **{CACHE: cache})
        cache = output[CACHE]
        steps.append(output.logits)
    torch.testing.assert_close(logits[:1], torch.cat(steps, dim=1), atol=2e-5, rtol=0)


@torch.inference_mode()
def test_a_cached_pass_in_chunks_chooses_and_computes_as_one_pass_does(models, ids):
    mix = routed(models)
    whole = mix(ids).logits
    expected = chosen(mix, ids)
    cache, logits, choices = None, [], []
    for start, stop in ((0, 5), (5, 6), (6, 7), (7, LENGTH)):
        output = mix(ids[:, start:stop], use_cache=True, **{CACHE: cache})
        cache = output[CACHE]
        logits.append(output.logits)
        choices.append(chosen(mix, ids[:, start:stop]))
    assert torch.equal(torch.cat(choices, dim=1), expected)
    torch.testing.assert_close(torch.cat(logits, dim=1), whole, atol=2e-5, rtol=0)


@torch.inference_mode()
@pytest.mark.parametrize("use_cache", [True, False])
def test_a_pass_prints_no_warning_of_transformers(llamas, ids, use_cache):
    mix = routed(llamas)
    with library_warnings() as messages:
        mix(ids, use_cache=use_cache)
    assert not messages


@torch.inference_mode()
def test_padding_on_the_left_changes_no_choice_and_no_logit(models, ids):
    mix = routed(models)
    whole = mix(ids).logits
    expected = chosen(mix, ids)
    pad = 5
    padded = torch.cat([torch.full((2, pad), 2), ids], dim=1)
    mask = (torch.arange(pad + LENGTH) >= pad).long().expand(2, -1)
    output = mix(padded, attention_mask=mask, position_ids=(mask.cumsum(1) - 1).clamp(min=0))
    assert torch.equal(chosen(mix, padded)[:, pad:], expected)
    torch.testing.assert_close(output.logits[:, pad:], whole, atol=2e-5, rtol=0)


@pytest.mark.parametrize("search", [{}, {"num_beams": 3}])
def test_generation_with_a_cache_writes_what_generation_without_one_writes(llamas, ids, search):
    mix = routed(llamas)
    written = [
        mix.generate(ids, max_new_tokens=10, do_sample=False, eos_token_id=None, use_cache=cached, **search)
        for cached in (True, False)
    ]
    assert torch.equal(*written)


@torch.inference_mode()
def test_a_cropped_cache_resumes_from_the_token_that_is_left(llamas, ids):
    mix = routed(llamas)
    whole = mix(ids).logits
    cache = mix(ids[:, :10], use_cache=True)[CACHE]
    cache.crop(-4)
    rest = mix(ids[:, 6:], use_cache=True, **{CACHE: cache}).logits
    torch.testing.assert_close(rest, whole[:, 6:], atol=2e-5, rtol=0)


@torch.inference_mode()
@pytest.mark.parametrize("kept", [1, 4, torch.tensor([0, 3, 7])])
def test_the_head_computes_the_positions_that_are_kept_with_their_own_experts(llamas, ids, kept):
    mix = routed(llamas)
    positions = slice(-kept, None) if isinstance(kept, int) else kept
    torch.testing.assert_close(mix(ids, logits_to_keep=kept).logits, mix(ids).logits[:, positions])


@torch.inference_mode()
def test_a_masked_expert_is_never_chosen(llamas, ids):
    mix = routed(llamas)
    mix(ids)
    assert (chosen(mix, ids) == 0).any()
    mix.router.active = torch.tensor([False, True])
    mix(ids)
    assert not (chosen(mix, ids) == 0).any()


@torch.inference_mode()
def test_the_seed_takes_tokens_only_where_it_is_a_choice(llamas, ids):
    with_seed, without = routed(llamas), routed(llamas, seed_is_a_choice=False)
    with_seed(ids)
    routing = with_seed.router.routing
    assert (routing.chosen == 2).any()
    assert torch.equal(routing.weights == 0, routing.chosen == 2)
    assert without.router.unigrams.shape[1] == 3 and len(without.router.experts) == 3


def test_experts_may_have_ffns_of_other_widths(ids):
    dense = [
        pico.pico_model("llama", seed=seed, intermediate_size=width) for seed, width in ((0, 40), (1, 56))
    ]
    mix = routed([*dense, pico.pico_model("llama", seed=2)])
    with torch.inference_mode():
        mix.router.forced = 1
        assert torch.equal(mix(ids).logits, dense[1](ids).logits)


def test_embeddings_in_place_of_token_ids_are_refused(llamas):
    with pytest.raises(ValueError, match="pass input_ids"):
        routed(llamas)(inputs_embeds=torch.zeros(1, 3, 32))


def test_the_filter_is_the_forward_recursion(ids):
    router = ContextRouter(300, 2, seed_is_a_choice=True)
    generator = torch.Generator().manual_seed(1)
    router.unigrams.copy_(torch.randn(router.unigrams.shape, generator=generator))
    router.filter.copy_(torch.tensor([0.7, 0.1]))
    found = router(ids, None, None)[..., :-1]
    for row, tokens in zip(found, ids, strict=True):
        expected = torch.full((3,), 1 / 3)
        for posterior, token in zip(row, tokens, strict=True):
            expected = (0.9 * expected + 0.1 / 3) * (0.7 * router.unigrams[token]).exp()
            expected = expected / expected.sum()
            torch.testing.assert_close(posterior, expected)


def test_a_pair_of_tokens_is_evidence_from_the_second_one_on(ids):
    router = ContextRouter(300, 2, seed_is_a_choice=False)
    router.bigrams[:, 0] = 1.0
    posteriors = router(ids, None, None)
    assert torch.equal(posteriors[:, 0, :2], torch.full((2, 2), 0.5))
    assert (posteriors[:, 1:, 0] > 0.5).all()
    assert torch.equal(posteriors[..., -1].long(), ids) and NO_TOKEN < 0


def low_rank_mix(dense, differences, bases):
    """A mix of dense models, with a random difference of rank 2 for each choice that `differences` names targets of."""
    settings = dense[-1].config
    experts = len(bases) - 1
    config = NexusConfig(
        text_config=settings.to_dict(),
        experts=[f"e{j}@1" for j in range(experts)],
        ffn_widths=[settings.intermediate_size] * experts,
        null_experts=1,
        routed_trunk=True,
        bases=bases,
        differences=[
            {"rank": 2, "targets": differences[j]} if j in differences else None for j in range(experts)
        ],
    )
    mix = NexusForCausalLM(config).eval()
    generator = torch.Generator().manual_seed(3)
    for name, tensor in mix.state_dict().items():
        if ".differences." in name:
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.3)
        elif "choices." in name:
            before, _, after = name.removeprefix("language_model.").partition("choices.")
            base, _, rest = after.partition(".")
            tensor.copy_(dense[int(base)].state_dict()[before + rest])
    for table in (mix.router.unigrams, mix.router.bigrams):
        table.copy_(torch.randn(table.shape, generator=generator) * 2 / mix.router.filter[0])
    return mix


def added(dense, mix, choice):
    """A dense model with a choice's difference added to its weights."""
    model = copy.deepcopy(dense)
    state, found = mix.state_dict(), 0
    for name, parameter in model.named_parameters():
        for mixed, b in state.items():
            if mixed.endswith(f".differences.{choice}.lora_B"):
                layer, _, rest = mixed.removeprefix("language_model.").partition(".choices.")
                inside = rest.split(".differences.")[0].partition(".")[2]
                if name == f"{layer}.{inside}.weight".replace("..", "."):
                    parameter.data += b @ state[mixed.replace("lora_B", "lora_A")]
                    found += 1
    assert found
    return model


ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@torch.inference_mode()
def test_low_rank_experts_share_the_seed_and_each_is_its_sum_with_it(llamas, ids):
    own, seed = llamas[:2]
    mix = low_rank_mix([own, seed], {1: ALL, 2: ["q_proj", "down_proj"]}, bases=[0, 1, 1, 1])
    references = [own, added(seed, mix, 1), added(seed, mix, 2), seed]
    for choice, dense in enumerate(references):
        mix.router.forced = choice
        torch.testing.assert_close(mix(ids).logits, dense(ids).logits, atol=2e-5, rtol=0)
    assert not torch.allclose(references[1](ids).logits, seed(ids).logits, atol=1e-3)
    widths = {name.split("choices.")[1][0] for name in mix.state_dict() if "choices." in name}
    assert widths == {"0", "1"}


@torch.inference_mode()
@pytest.mark.parametrize("bases", [[0, 1, 1, 1], [0, 0, 0, 0], [0, 1, 2, 3]])
def test_tokens_of_low_rank_experts_in_one_batch_are_computed_as_each_alone(llamas, ids, bases):
    dense = [llamas[j % 3] for j in range(max(bases) + 1)]
    mix = low_rank_mix(dense, {1: ALL, 2: ["v_proj", "up_proj"]}, bases=bases)
    logits = mix(ids).logits
    assert chosen(mix, ids).unique().numel() == 4
    choices, cache, steps = chosen(mix, ids)[0].tolist(), None, []
    for t, choice in enumerate(choices):
        mix.router.forced = choice
        output = mix(ids[:1, t : t + 1], use_cache=True, **{CACHE: cache})
        cache = output[CACHE]
        steps.append(output.logits)
    torch.testing.assert_close(logits[:1], torch.cat(steps, dim=1), atol=2e-5, rtol=0)


def test_gradients_reach_the_difference_of_each_tokens_own_expert(llamas, ids):
    mix = low_rank_mix(llamas[:2], {0: ["q_proj"], 1: ["q_proj"]}, bases=[0, 1, 1])
    mix.router.forced = 1
    mix(ids, labels=ids).loss.backward()
    gradients = {j: [p.grad for n, p in mix.named_parameters() if f".differences.{j}." in n] for j in (0, 1)}
    assert all(grad is None for grad in gradients[0])
    assert all(grad.abs().max() > 0 for grad in gradients[1])


def test_a_mix_of_low_rank_experts_saves_and_loads(llamas, ids, tmp_path):
    mix = low_rank_mix(llamas[:2], {1: ALL}, bases=[0, 1, 1])
    mix.save_pretrained(tmp_path)
    again = NexusForCausalLM.from_pretrained(tmp_path).eval()
    with torch.inference_mode():
        assert torch.equal(again(ids).logits, mix(ids).logits)
