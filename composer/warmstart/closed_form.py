"""Expert embeddings and P_r in closed form.

With C = mean of x xᵀ over the states of all domains, every domain weighted alike, and μ_j the mean state of
domain j, least squares of the indicator "x belongs to domain j" on x gives, up to a factor common to all j,

    e_j = τ · C⁻¹ μ_j                                        (whitened class means)

τ is one number for each block: SHARPEN times the one with the lowest cross-entropy of softmax(x · e) on a sample
of states. C⁻¹ is that of C + λ · mean(diag C) · I.

An appended expert is solved for with the old embeddings fixed, by the same difference from the average expert:

    e_new = ē + τ · C⁻¹ (μ_new − μ̄) + β · C⁻¹ μ             (ē, μ̄ over the old experts, μ over all domains)

x · C⁻¹ μ is close to 1 for every x, so β is a bias; (τ, β) is the pair with the lowest cross-entropy.

P_r(d) = W2 · φ(d), with φ the SwiGLU layer at random W1, is linear in W2: ridge regression maps the members'
domain vectors (also resampled ones) and pseudo-domains to the e that their own states give.

Shape suffixes: L blocks, N experts, S states, H model width, M domain-embedding width, D solved domain vectors.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

import torch
from torch.nn import functional as F

from composer.domains import Domain, Standard
from composer.warmstart.pseudo import pseudo_domains, resampled
from composer.warmstart.states import Observed

RIDGE = 1e-4
# Cross-entropy makes p honest; a mix is better off with less of the shared expert than an honest p leaves it.
SHARPEN = 1.5
TEMPERATURES = tuple(2.0 ** (i / 2) for i in range(-4, 13))
BIASES = tuple(i / 2 for i in range(-10, 11))
RESAMPLED_PER_MEMBER = 16
RESAMPLED_WEIGHT = 4.0


def member_gates(observed: Observed, n: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Expert embeddings [L, N, H] (NaN where there is no text), C⁻¹ [L, H, H] and temperatures [L]."""
    inverse_LHH = inverse(observed.second_LHH)
    gates_LNH = observed.domain_means(n) @ inverse_LHH
    text = [j for j in range(n) if bool((observed.owner_C == j).any())]
    labels_S = torch.tensor([text.index(j) for j in observed.labels_S.tolist()])
    weights_N = _balance(labels_S, len(text))
    scales = []
    for x_SH, gate_NH in zip(observed.sample_LSH, gates_LNH[:, text], strict=True):
        logits_SN = x_SH @ gate_NH.T
        losses = [F.cross_entropy(logits_SN * t, labels_S, weights_N).item() for t in TEMPERATURES]
        scales.append(SHARPEN * TEMPERATURES[losses.index(min(losses))])
    scale_L = torch.tensor(scales)
    return gates_LNH * scale_L[:, None, None], inverse_LHH, scale_L


def appended_gate(observed: Observed, gates_LNH: torch.Tensor) -> torch.Tensor:
    """The embeddings with the last expert's solved anew and the others as they are [L, N, H]."""
    n = gates_LNH.shape[1]
    inverse_LHH = inverse(observed.second_LHH)
    means_LNH = observed.domain_means(n)
    text = [j for j in range(n - 1) if bool((observed.owner_C == j).any())]
    if not text:  # nothing is known of the old domains: P_r's own answer stands
        return gates_LNH
    average_LH = means_LNH[:, text].mean(dim=1)
    step_LH = torch.einsum("lh,lhk->lk", means_LNH[:, -1] - average_LH, inverse_LHH)
    bias_LH = torch.einsum("lh,lhk->lk", means_LNH[:, [*text, n - 1]].mean(dim=1), inverse_LHH)
    center_LH = gates_LNH[:, text].mean(dim=1)
    weights_N = _balance(observed.labels_S, n)
    solved = gates_LNH.clone()
    for layer, x_SH in enumerate(observed.sample_LSH):
        old_SN = x_SH @ gates_LNH[layer, :-1].T
        parts_S = [x_SH @ v[layer] for v in (center_LH, step_LH, bias_LH)]
        best = (float("inf"), 1.0, 0.0)
        for t, b in product(TEMPERATURES, BIASES):
            new_S = parts_S[0] + t * parts_S[1] + b * parts_S[2]
            logits_SN = torch.cat([old_SN, new_S[:, None]], dim=1)
            best = min(best, (F.cross_entropy(logits_SN, observed.labels_S, weights_N).item(), t, b))
        solved[layer, -1] = center_LH[layer] + best[1] * step_LH[layer] + best[2] * bias_LH[layer]
    return solved


def project(
    routers: Sequence[Any],
    observed: Observed,
    domains: Sequence[Domain],
    standard: Standard,
    gates_LNH: torch.Tensor,
    inverse_LHH: torch.Tensor,
    scale_L: torch.Tensor,
    generator: torch.Generator,
) -> None:
    """Solve each router for the members' embeddings, those of pseudo-domains, and nothing else."""
    text = [j for j, domain in enumerate(domains) if domain.has_text]
    vectors, targets, weights = [], [], []
    for j in text:
        again = [resampled(domains[j].vectors, generator) for _ in range(RESAMPLED_PER_MEMBER)]
        vectors += [domains[j].mean, *again]
        targets += [gates_LNH[:, j]] * (1 + len(again))
        weights += [len(observed.owner_C) / len(text)] + [RESAMPLED_WEIGHT] * len(again)
    for chunks in pseudo_domains(observed.vectors_CM, generator):
        mean_LH = observed.sums_CLH[chunks].sum(dim=0) / observed.counts_C[chunks].sum()
        vectors.append(observed.vectors_CM[chunks].mean(dim=0))
        targets.append(torch.einsum("lh,lhk->lk", mean_LH, inverse_LHH) * scale_L[:, None])
        weights.append(len(chunks) ** 0.5)
    vectors_DM, targets_LDH = standard(torch.stack(vectors)), torch.stack(targets, dim=1)
    member_NM = standard(torch.stack([domains[j].mean for j in text]))
    for router, targets_DH, gates_NH in zip(routers, targets_LDH, gates_LNH, strict=True):
        router.solve(vectors_DM, targets_DH, torch.tensor(weights))
        router.correct(member_NM, gates_NH[text], text)


def hits(observed: Observed, gates_LNH: torch.Tensor) -> float:
    """The share of sampled states that score highest with their own domain's expert, mean over domains."""
    chosen_LS = torch.einsum("lsh,lnh->lsn", observed.sample_LSH, gates_LNH).argmax(dim=-1)
    right_LS = (chosen_LS == observed.labels_S).float()
    shares = [right_LS[:, observed.labels_S == j].mean() for j in observed.labels_S.unique()]
    return float(torch.stack(shares).mean())


def inverse(second_LHH: torch.Tensor) -> torch.Tensor:
    """(C + λ · mean(diag C) · I)⁻¹ of each block, computed in double precision."""
    c = second_LHH.double()
    ridge_L = RIDGE * c.diagonal(dim1=-2, dim2=-1).mean(dim=-1)
    eye = torch.eye(c.shape[-1], dtype=c.dtype)
    # Cholesky: the matrices are positive definite, and MKL's LU failed here on two threads (oneMKL DLASWP).
    return torch.cholesky_inverse(torch.linalg.cholesky(c + ridge_L[:, None, None] * eye)).float()


def _balance(labels_S: torch.Tensor, n: int) -> torch.Tensor:
    """Class weights [N] that let every domain count alike."""
    return 1 / torch.bincount(labels_S, minlength=n).clamp(min=1).float()
