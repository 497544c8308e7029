"""Expert embeddings of one block in closed form.

C is the mean of x xᵀ over the states of all domains, with equal weight per domain. μ_j is the mean state of domain j.
Least squares of the indicator "x belongs to domain j" on x gives, up to a factor common to all j,

    e_j = τ · C⁻¹ μ_j                                        (whitened class means)

τ is the candidate with the lowest cross-entropy of softmax(x · e) on a sample of states. C⁻¹ is the inverse of
C + λ · mean(diag C) · I.

An appended expert is solved with the old embeddings fixed, from its difference to the average expert:

    e_new = ē + τ · C⁻¹ (μ_new − μ̄) + β · C⁻¹ μ             (ē, μ̄ over the old experts, μ over all domains)

x · C⁻¹ μ is close to 1 for every x, so β is a bias. (τ, β) is the pair of candidates with the lowest cross-entropy.

Shape suffixes: N experts, X sampled states, H width of the states (states.py).
"""

from __future__ import annotations

from itertools import product

import torch
from torch.nn import functional as F

from composer.training.warm_start.states import Observed

RIDGE = 1e-4
TEMPERATURES = tuple(2.0 ** (i / 2) for i in range(-4, 13))
BIASES = tuple(i / 2 for i in range(-10, 11))
EVERY = 8  # stride over the sampled states when (τ, β) of an appended expert are searched


def member_gates(observed: Observed, n: int) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Compute the expert embeddings [N, H] (NaN for a domain without text), C⁻¹ [H, H] and the scale τ."""
    inverse_HH = inverse(observed.second_HH)
    gates_NH = observed.domain_means(n) @ inverse_HH
    text, labels_X = with_text(observed)
    weights_N = balance(labels_X, len(text))
    logits_XN = observed.sample_XH @ gates_NH[text].T
    losses = [F.cross_entropy(logits_XN * t, labels_X, weights_N).item() for t in TEMPERATURES]
    scale = TEMPERATURES[losses.index(min(losses))]
    return gates_NH * scale, inverse_HH, scale


def appended_gate(observed: Observed, gates_NH: torch.Tensor) -> torch.Tensor:
    """Return the embeddings [N, H] with the last one solved and the others unchanged.

    The old embeddings keep their scale, so e_new is fitted to it.
    """
    n = len(gates_NH)
    text = [j for j in with_text(observed)[0] if j < n - 1]
    if not text:  # no old domain has text: the embedding from P_r is used
        return gates_NH
    inverse_HH = inverse(observed.second_HH)
    means_NH = observed.domain_means(n)
    x_XH, labels_X = observed.sample_XH[::EVERY], observed.labels_X[::EVERY]
    center_H = gates_NH[text].mean(dim=0)
    step_H = (means_NH[-1] - means_NH[text].mean(dim=0)) @ inverse_HH
    bias_H = means_NH[[*text, n - 1]].mean(dim=0) @ inverse_HH
    weights_N = balance(labels_X, n)
    old_XN = x_XH @ gates_NH[:-1].T
    parts_X = [x_XH @ v_H for v_H in (center_H, step_H, bias_H)]
    best = (float("inf"), 1.0, 0.0)
    for t, b in product(TEMPERATURES, BIASES):
        new_X = parts_X[0] + t * parts_X[1] + b * parts_X[2]
        logits_XN = torch.cat([old_XN, new_X[:, None]], dim=1)
        best = min(best, (F.cross_entropy(logits_XN, labels_X, weights_N).item(), t, b))
    return torch.cat([gates_NH[:-1], (center_H + best[1] * step_H + best[2] * bias_H)[None]])


def hits(observed: Observed, gates_NH: torch.Tensor) -> float:
    """Return the share of sampled states whose own domain's expert scores highest, mean over domains."""
    right_X = ((observed.sample_XH @ gates_NH.T).argmax(dim=-1) == observed.labels_X).float()
    shares = [right_X[observed.labels_X == j].mean() for j in observed.labels_X.unique()]
    return float(torch.stack(shares).mean())


def inverse(second_HH: torch.Tensor) -> torch.Tensor:
    """Compute (C + λ · mean(diag C) · I)⁻¹."""
    return torch.cholesky_inverse(cholesky(second_HH)).float()


def cholesky(second_HH: torch.Tensor) -> torch.Tensor:
    """Compute the lower Cholesky factor of C + λ · mean(diag C) · I, in double precision."""
    c = second_HH.double()
    eye = torch.eye(len(c), dtype=c.dtype)
    # Cholesky fits because the matrices are positive definite. MKL's LU failed here on two threads (oneMKL DLASWP).
    return torch.linalg.cholesky(c + RIDGE * c.diagonal().mean() * eye)


def with_text(observed: Observed) -> tuple[list[int], torch.Tensor]:
    """Return the indices of the observed domains, and the sample's labels [X] as positions in that list."""
    text = observed.owner_C.unique().tolist()
    return text, torch.searchsorted(torch.tensor(text), observed.labels_X)


def balance(labels_X: torch.Tensor, n: int) -> torch.Tensor:
    """Return class weights [N] that give every domain the same total weight."""
    return 1 / torch.bincount(labels_X, minlength=n).clamp(min=1).float()
