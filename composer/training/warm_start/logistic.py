"""Expert embeddings by logistic regression on the states of one block, from where the closed forms leave them.

Whitened class means are the best gate for classes that share one covariance; text does not. So the cross-entropy of
softmax(x · e) is minimised over e, with every domain weighted alike. It is convex, and no gradient passes
through the model. In whitened coordinates, C = L Lᵀ and e = L⁻ᵀ v, the penalty on |v|² has no unit and L-BFGS
(torch.optim.LBFGS) is at its end after a few iterations.

When an expert is appended, the old embeddings are constants and only the last one is fitted.

Shape suffixes: N experts, F fitted experts, X sampled states, H model width.
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
    """Embeddings [N, H] that tell the labels 0 … N−1 apart better than `gates_NH`; the first `kept` stay as they are.

    second_HH: the mean of x xᵀ, for the whitening.
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
