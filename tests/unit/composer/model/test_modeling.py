"""The Nexus mixture in a model: equations, routing and invariants."""

import pico
import pytest
import torch

from composer.generation import CACHE
from composer.model.losses import guidance_loss
from composer.model.modeling import NexusConfig, NexusForCausalLM, forced
from composer.model.routers.linear import LinearRouter
from composer.model.routers.nexus import NexusRouter
from composer.model.routers.random import RandomRouter
from composer.variants import ROUTERS

# From the fourth position on, queries grow with their position.
SCALED_BY_POSITION = {
    "rope_type": "default",
    "rope_theta": 500.0,
    "llama_4_scaling_beta": 5.0,
    "original_max_position_embeddings": 4,
}


def mixture_of(dense, *, experts=2, widths=None, perturb=0.0, **settings):
    """A mix whose shared and routed experts are copies of the dense model's FFNs, plus noise for the routed."""
    config = NexusConfig(
        text_config=dense.config.to_dict(),
        experts=[f"e{j}@1" for j in range(experts)],
        ffn_widths=widths or [dense.config.intermediate_size] * experts,
        domain_dim=8,
        **settings,
    )
    mix = NexusForCausalLM(config)
    own = mix.state_dict()
    generator = torch.Generator().manual_seed(1)
    for name, tensor in dense.state_dict().items():
        if ".mlp." not in name:
            own[f"language_model.{name}"].copy_(tensor)
            continue
        head, tail = name.split(".mlp.")
        own[f"language_model.{head}.mlp.shared.{tail}"].copy_(tensor)
        for j in range(experts if widths is None else 0):
            noise = torch.randn(tensor.shape, generator=generator) * perturb
            own[f"language_model.{head}.mlp.experts.{j}.{tail}"].copy_(tensor + noise)
    for mixture in mix.mixtures():
        mixture.router.domains.copy_(torch.randn(experts, 8, generator=generator))
        mixture.router.reset_parameters(generator)
    return mix.eval()


@pytest.fixture(scope="module")
def dense():
    return pico.pico_model("llama")


@pytest.fixture(scope="module")
def ids():
    return torch.randint(3, 260, (2, 17), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "selection", [{}, {"routing_top_p": 0.6}, {"num_experts_per_tok": 2, "null_experts": 2}]
)
@pytest.mark.parametrize("router", sorted(ROUTERS))
def test_equal_experts_with_convex_gates_reproduce_the_dense_logits(dense, ids, router, selection):
    mix = mixture_of(dense, router=router, combine="convex", **selection)
    with torch.inference_mode():
        torch.testing.assert_close(mix(ids).logits, dense(ids).logits, atol=1e-5, rtol=0)


def test_a_forced_expert_with_convex_gates_is_the_dense_model_of_that_expert(dense, ids):
    mix = mixture_of(dense, perturb=0.05, combine="convex")
    state = {k: v.clone() for k, v in dense.state_dict().items()}
    for name, tensor in mix.state_dict().items():
        if ".mlp.experts.1." in name:
            dense_name = name.removeprefix("language_model.").replace(".mlp.experts.1.", ".mlp.")
            state[dense_name] = tensor
    expert = pico.pico_model("llama")
    expert.load_state_dict(state)
    with torch.inference_mode(), forced(mix, 1):
        torch.testing.assert_close(mix(ids).logits, expert(ids).logits, atol=1e-5, rtol=0)


@pytest.mark.parametrize("combine", ["additive", "convex"])
@pytest.mark.parametrize("top_k", [1, 2])
def test_a_mixture_computes_its_equation_token_by_token(dense, combine, top_k):
    mix = mixture_of(dense, experts=3, perturb=0.1, combine=combine, num_experts_per_tok=top_k)
    block = mix.mixtures()[0]
    x = torch.randn(1, 9, dense.config.hidden_size, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        y = block(x)[0]
        for token, got in zip(x[0], y, strict=True):
            p = (block.router.gate() @ token).softmax(dim=0)
            top = p.argsort(descending=True)[:top_k]
            shared = block.shared(token)
            routed = sum(p[i] * block.experts[int(i)](token) for i in top)
            keep = 1 - p[top].sum() if combine == "convex" else 1.0
            torch.testing.assert_close(got, keep * shared + routed, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("combine", ["additive", "convex"])
def test_top_p_and_null_experts_compute_the_same_equation(dense, combine):
    mix = mixture_of(dense, experts=3, perturb=0.1, combine=combine, routing_top_p=0.7, null_experts=1)
    block = mix.mixtures()[0]
    block.router.null.data.fill_(0.1)  # so that the null expert has another rank for each token
    x = torch.randn(1, 20, dense.config.hidden_size, generator=torch.Generator().manual_seed(2)) * 4
    numbers = set()
    with torch.inference_mode():
        y = block(x)[0]
        for token, got in zip(x[0], y, strict=True):
            p = (block.router.rows() @ token).softmax(dim=0)
            order = p.argsort(descending=True)
            reached = (p[order].cumsum(dim=0) < 0.7).sum() + 1
            taken = [int(i) for i in order[:reached] if i < 3]
            routed = sum((p[i] * block.experts[i](token) for i in taken), torch.zeros_like(token))
            keep = 1 - p[taken].sum() if combine == "convex" else 1.0
            torch.testing.assert_close(got, keep * block.shared(token) + routed, atol=1e-5, rtol=1e-4)
            numbers.add(len(taken))
    assert len(numbers) > 1, "tokens take different numbers of experts"


@pytest.mark.parametrize("selection", [{}, {"routing_top_p": 0.6, "null_experts": 1}])
def test_one_token_at_a_time_with_a_cache_gives_the_same_logits_as_all_at_once(dense, ids, selection):
    mix = mixture_of(dense, perturb=0.1, **selection)
    with torch.inference_mode():
        whole = mix(ids[:1]).logits
        cache, steps = None, []
        for token in ids[0]:
            output = mix(input_ids=token.view(1, 1), use_cache=True, **{CACHE: cache})
            cache = output[CACHE]
            steps.append(output.logits)
    torch.testing.assert_close(torch.cat(steps, dim=1), whole, atol=1e-4, rtol=0)


def test_an_expert_of_another_width_runs_in_a_mix(dense, ids):
    mix = mixture_of(dense, widths=[48, 80])
    assert [e.up_proj.out_features for e in mix.mixtures()[0].experts] == [48, 80]
    with torch.inference_mode(), forced(mix, 1):
        assert torch.isfinite(mix(ids).logits).all()


def test_a_masked_expert_gets_no_token_and_the_others_share_its_probability(dense, ids):
    mix = mixture_of(dense, experts=3, perturb=0.1)
    for mixture in mix.mixtures():
        mixture.active = torch.tensor([True, False, True])
    with torch.inference_mode():
        mix(ids)
    for mixture in mix.mixtures():
        assert not (mixture.routing.chosen == 1).any()
        torch.testing.assert_close(mixture.routing.probabilities.sum(dim=1), torch.ones(ids.numel()))


def test_training_adds_the_load_balancing_loss_and_its_gradient_reaches_the_router(dense, ids):
    mix = mixture_of(dense, perturb=0.1, load_balance=0.5).train()
    output = mix(ids, labels=ids)
    plain = mix.eval()(ids, labels=ids)
    torch.testing.assert_close(output.loss, plain.loss + 0.5 * output.load_balance)
    output.loss.backward()
    for mixture in mix.mixtures():
        assert mixture.router.w1.grad.abs().sum() > 0


def test_training_adds_the_guidance_loss_where_rows_name_their_expert(dense, ids):
    mix = mixture_of(dense, perturb=0.1, load_balance=0.0).train()
    mix.router_losses.guidance = 0.3
    own = torch.tensor([1, 0])
    guided = mix(ids, labels=ids, own_expert=own).loss
    added = torch.stack([guidance_loss(mixture.routing, own) for mixture in mix.mixtures()]).mean()
    torch.testing.assert_close(guided, mix(ids, labels=ids).loss + 0.3 * added)
    torch.testing.assert_close(mix.eval()(ids, labels=ids, own_expert=own).loss, mix(ids, labels=ids).loss)


@pytest.mark.parametrize("router", ["nexus", "recurrent"])
def test_gradient_checkpointing_changes_no_gradient(dense, ids, router):
    """The first run of a block records the routing, and the second run must repeat it, including the noise."""
    own = torch.tensor([1, 0])
    gradients = []
    for checkpointing in (False, True):
        mix = mixture_of(dense, perturb=0.1, load_balance=0.5, router=router).train()
        mix.router_losses.z_loss = mix.router_losses.entropy = mix.router_losses.guidance = 0.1
        if checkpointing:
            mix.gradient_checkpointing_enable({"use_reentrant": False})
            assert all(block.gradient_checkpointing for block in mix.blocks())
        for mixture in mix.mixtures():
            mixture.temperature = 1.5
            if router == "recurrent":
                mixture.router.readout.data.fill_(0.1)
        torch.manual_seed(0)
        mix(ids, labels=ids, own_expert=own).loss.backward()
        gradients.append({name: p.grad for name, p in mix.named_parameters()})
    plain, again = gradients
    still = {name for name, grad in plain.items() if grad is None or not grad.any()}
    # The input state of the first block's GRU is zero.
    assert all("layers.0.mlp.router.gru.weight_hh" in name for name in still)
    for name, gradient in plain.items():
        torch.testing.assert_close(again[name], gradient, atol=1e-6, rtol=1e-5)


def test_a_model_saved_and_loaded_again_gives_the_same_logits(dense, ids, tmp_path):
    mix = mixture_of(dense, perturb=0.1, combine="additive")
    mix.save_pretrained(tmp_path)
    again = NexusForCausalLM.from_pretrained(tmp_path).eval()
    weights, own = again.state_dict(), mix.state_dict()
    assert weights.keys() == own.keys()
    assert all(torch.equal(tensor, own[name]) for name, tensor in weights.items())
    with torch.inference_mode():  # up to rounding: the loaded tensors have another alignment in memory
        torch.testing.assert_close(again(ids).logits, mix(ids).logits, atol=1e-6, rtol=0)


def test_it_generates_with_the_cache_of_its_family(dense, ids):
    mix = mixture_of(dense, perturb=0.1)
    written = mix.generate(ids[:1], max_new_tokens=4, do_sample=False, eos_token_id=-1)
    assert written.shape == (1, ids.shape[1] + 4)


def test_the_nexus_router_projects_domains_by_the_papers_equation():
    router = NexusRouter(hidden_size=6, domain_dim=4, num_experts=2)
    router.reset_parameters(torch.Generator().manual_seed(0))
    d = torch.randn(2, 4, generator=torch.Generator().manual_seed(1))
    router.domains.copy_(d)
    inner = d @ router.w1.T
    swiglu = torch.nn.functional.silu(inner[:, :6]) * inner[:, 6:]
    torch.testing.assert_close(router.gate(), swiglu @ router.w2.T)


def test_appending_an_expert_keeps_every_parameter_of_the_nexus_router():
    router = NexusRouter(6, 4, 2)
    router.reset_parameters(torch.Generator().manual_seed(0))
    before, rows = {n: p.clone() for n, p in router.named_parameters()}, router.gate().detach()
    router.append(torch.ones(4), torch.Generator().manual_seed(9))
    assert all(torch.equal(p, before[n]) for n, p in router.named_parameters())
    assert torch.equal(router.gate()[:2], rows)
    assert router.gate().shape == (3, 6)


def test_appending_an_expert_resets_the_linear_router():
    router = LinearRouter(6, 4, 2)
    router.reset_parameters(torch.Generator().manual_seed(0))
    before = router.weight.detach().clone()
    router.append(torch.ones(4), torch.Generator().manual_seed(9))
    assert router.weight.shape == (3, 6)
    assert not torch.equal(router.weight[:2], before)


def test_the_recurrent_router_begins_as_nexus_and_then_sees_the_blocks_below(dense, ids):
    nexus, recurrent = (mixture_of(dense, perturb=0.1, router=kind) for kind in ("nexus", "recurrent"))
    for one, other in zip(nexus.mixtures(), recurrent.mixtures(), strict=True):
        other.router.load_state_dict(one.router.state_dict(), strict=False)
    with torch.inference_mode():
        assert torch.equal(nexus(ids).logits, recurrent(ids).logits)
    first, second = (mixture.router for mixture in recurrent.mixtures())
    second.readout.data.fill_(0.1)
    x = torch.randn(5, dense.config.hidden_size, generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        first(x)
        scores = second(x)
        state = second.gru(x @ second.down.T, first.gru(x @ first.down.T))
        torch.testing.assert_close(scores, x @ second.gate().T + state @ second.readout @ second.domains.T)
        first(2 * x)
        assert not torch.equal(second(x), scores)


def test_the_random_router_keeps_its_rows_when_an_expert_is_appended_and_has_nothing_to_train():
    router = RandomRouter(6, 4, 2)
    router.reset_parameters(torch.Generator().manual_seed(0))
    before = router.gate().clone()
    router.append(torch.ones(4), torch.Generator().manual_seed(9))
    assert torch.equal(router.gate()[:2], before)
    assert router.gate().shape == (3, 6)
    assert not list(router.parameters())


def test_the_cached_gate_follows_every_change_of_its_tensors():
    router = NexusRouter(6, 4, 2).eval()
    router.reset_parameters(torch.Generator().manual_seed(0))
    with torch.no_grad():
        router.domains.copy_(torch.ones(2, 4))
        first = router.gate().clone()
        assert router.gate() is router.gate()
        router.w2.mul_(2)
        torch.testing.assert_close(router.gate(), first * 2)
        router.domains = torch.zeros(2, 4)
        torch.testing.assert_close(router.gate(), torch.zeros(2, 6))


def test_a_batch_with_padding_generates_as_each_text_does_where_positions_scale_the_queries(ids):
    scaled = pico.pico_model("ministral3", initializer_range=0.2, rope_parameters=SCALED_BY_POSITION)
    mix = mixture_of(scaled, perturb=0.1)
    settings = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None, "pad_token_id": 2}
    short = ids[1:, 6:]
    padded = torch.cat([ids[:1], torch.cat([torch.full((1, 6), 2), short], dim=1)])
    both = mix.generate(padded, attention_mask=padded.ne(2).long(), **settings)[:, ids.shape[1] :]
    alone = [mix.generate(text, **settings)[0, text.shape[1] :] for text in (ids[:1], short)]
    assert torch.equal(both, torch.stack(alone))


def test_generation_computes_the_logits_of_the_last_position_only(dense, ids):
    mix, widths = mixture_of(dense), []
    mix.get_output_embeddings().register_forward_hook(lambda *args: widths.append(args[2].shape[1]))
    mix.generate(ids, max_new_tokens=2, do_sample=False, eos_token_id=None, pad_token_id=2)
    assert widths == [1, 1]
