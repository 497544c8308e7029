"""The Nexus mixture inside a model: equations, routing, and what must never change."""

import pico
import pytest
import torch

from composer.modeling import NexusConfig, NexusForCausalLM, Routing, forced, guidance_loss, switch_loss
from composer.routers import ROUTERS, LinearRouter, NexusRouter


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


@pytest.mark.parametrize("router", sorted(ROUTERS))
def test_equal_experts_with_convex_gates_reproduce_the_dense_logits(dense, ids, router):
    mix = mixture_of(dense, router=router, combine="convex")
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


def test_one_token_at_a_time_with_a_cache_gives_the_same_logits_as_all_at_once(dense, ids):
    mix = mixture_of(dense, perturb=0.1)
    with torch.inference_mode():
        whole = mix(ids[:1]).logits
        cache, steps = None, []
        for token in ids[0]:
            output = mix(input_ids=token.view(1, 1), past_key_values=cache, use_cache=True)
            cache = output.past_key_values
            steps.append(output.logits)
    torch.testing.assert_close(torch.cat(steps, dim=1), whole, atol=1e-4, rtol=0)


def test_an_expert_of_another_width_stands_beside_the_others(dense, ids):
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


def test_the_switch_loss_is_one_when_balanced_and_the_number_of_experts_when_one_takes_all():
    even = torch.full((8, 4), 0.25)
    balanced = Routing(even, torch.arange(8)[:, None] % 4, even[:, :1])
    torch.testing.assert_close(switch_loss([balanced]), torch.tensor(1.0))
    one = torch.tensor([[1.0, 0, 0, 0]]).repeat(8, 1)
    collapsed = Routing(one, torch.zeros(8, 1, dtype=torch.long), one[:, :1])
    torch.testing.assert_close(switch_loss([collapsed]), torch.tensor(4.0))


def test_training_adds_the_load_balancing_loss_and_its_gradient_reaches_the_router(dense, ids):
    mix = mixture_of(dense, perturb=0.1, load_balance=0.5).train()
    output = mix(ids, labels=ids)
    plain = mix.eval()(ids, labels=ids)
    torch.testing.assert_close(output.loss, plain.loss + 0.5 * output.load_balance)
    output.loss.backward()
    for mixture in mix.mixtures():
        assert mixture.router.w1.grad.abs().sum() > 0


def test_guidance_is_the_surprise_at_each_tokens_own_expert_and_leaves_out_general_text():
    probabilities = torch.tensor([[0.5, 0.5], [0.25, 0.75], [0.9, 0.1], [0.2, 0.8]])
    routing = Routing(probabilities, probabilities.argmax(dim=1, keepdim=True), probabilities[:, :1])
    own = torch.tensor([0, -1])  # two rows of two tokens
    expected = -(torch.tensor(0.5).log() + torch.tensor(0.25).log()) / 2
    torch.testing.assert_close(guidance_loss([routing], own), expected)
    assert guidance_loss([routing], torch.tensor([-1, -1])) == 0


def test_training_adds_the_guidance_loss_where_rows_name_their_expert(dense, ids):
    mix = mixture_of(dense, perturb=0.1, load_balance=0.0, guidance=0.3).train()
    own = torch.tensor([1, 0])
    guided = mix(ids, labels=ids, own_expert=own).loss
    added = guidance_loss([mixture.routing for mixture in mix.mixtures()], own)
    torch.testing.assert_close(guided, mix(ids, labels=ids).loss + 0.3 * added)
    torch.testing.assert_close(mix.eval()(ids, labels=ids, own_expert=own).loss, mix(ids, labels=ids).loss)


def test_a_model_saved_and_loaded_again_gives_the_same_logits(dense, ids, tmp_path):
    mix = mixture_of(dense, perturb=0.1, combine="additive")
    mix.save_pretrained(tmp_path)
    again = NexusForCausalLM.from_pretrained(tmp_path).eval()
    with torch.inference_mode():
        # Mapped weights lie at other addresses, and kernels may sum in another order there.
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
