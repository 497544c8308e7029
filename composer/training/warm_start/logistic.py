"""Expert embeddings by logistic regression on the states of one block, initialised with the closed forms.

Whitened class means are the best gate for classes that share one covariance, but domains of text do not share one.
So the cross-entropy of softmax(x · e) is minimised over e, with equal weight per domain. The problem is convex, and
no gradient passes through the model. It is solved in whitened coordinates, C = L Lᵀ and e = L⁻ᵀ v. There the
penalty on |v|² has no unit, and L-BFGS (torch.optim.LBFGS) converges in a few iterations.

When an expert is appended, the old embeddings are constants and only the last one is fitted.

Shape suffixes: N experts, F fitted experts, X sampled states, H width of the states (states.py).
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

from composer.training.warm_start.closed_form import balance, cholesky

ITERATIONS = 30
PENALTY = 1e-5


def fit_gates(
    second_HH: torch.Tensor,
    sample_XH: torch.Tensor,
    labels_X: torch.Tensor,
    gates_NH: torch.Tensor,
    *,
    kept: int = 0,
) -> torch.Tensor:
    """Refine the embeddings `gates_NH` [N, H] to classify the labels 0 … N−1; the first `kept` stay unchanged.

    second_HH: the mean of x xᵀ, used for the whitening.
    """
    factor_HH = cholesky(second_HH).float()
    x_XH = torch.linalg.solve_triangular(factor_HH, sample_XH.T, upper=False).T
    constant_XN = sample_XH @ gates_NH[:kept].T
    v_FH = (gates_NH[kept:] @ factor_HH).detach().clone().requires_grad_(True)
    weights_N = balance(labels_X, len(gates_NH))
    optimizer = torch.optim.LBFGS([v_FH], max_iter=ITERATIONS, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        logits_XN = torch.cat([constant_XN, x_XH @ v_FH.T], dim=1)
        loss = F.cross_entropy(logits_XN, labels_X, weights_N) + PENALTY * v_FH.square().sum()
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(closure)
    fitted_HF = torch.linalg.solve_triangular(factor_HH.T, v_FH.detach().T, upper=True)
    return torch.cat([gates_NH[:kept], fitted_HF.T])
