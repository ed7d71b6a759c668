r"""How well a model predicts an observation from all others, where every unknown is shared by all of them."""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from ..posterior.arviz_compat import dataset, pareto_smoothed
from .khat import LEAST_DRAWS

__all__ = ["LeaveOneOut", "loo", "smoothed_loo"]


class LeaveOneOut(NamedTuple):
    r"""What leave-one-out found, in nats.

    Arguments:
        elpd: :math:`\sum_i \log p(x_i \mid x_{-i})`, with its standard error over observations in ``error``.
        error: That error.
        parameters: How much better an observation is predicted where it is not left out, in all: the effective number
            of parameters.
        each: :math:`\log p(x_i \mid x_{-i})` of each observation.
        khat: Pareto k-hat of each; above 0.7 its number means nothing.
    """

    elpd: float
    error: float
    parameters: float
    each: Float[np.ndarray, " n"]
    khat: Float[np.ndarray, " n"]


def loo(data: Any) -> LeaveOneOut:
    r"""Leave-one-out by Pareto smoothed importance sampling (PSIS-LOO), corrected for what the guide lacks.

    .. math::
        p(x_i \mid x_{-i}) \approx \frac{\sum_s w_i^{(s)} p(x_i \mid \theta^{(s)})}{\sum_s w_i^{(s)}}, \qquad
        w_i^{(s)} = \frac{p(x, \theta^{(s)})}{q(\theta^{(s)}) \, p(x_i \mid \theta^{(s)})}

    Only where every latent is a parameter that all observations share, such as a mixture's keys or the concentration of
    its weights. A text's own latent is drawn from a posterior that has seen the text; with the text its data goes, so
    that the weights would have to turn the posterior back into the prior. They cannot, and the result is wrong even
    with a perfect guide: by a third with 32 dimensions.

    Arguments:
        data: What :func:`~pyroformer.inference.posterior.global_latents.global_posterior` made.

    Raises:
        ValueError: If the data has latents of single texts, or fewer than 25 draws.

    References:
        Practical Bayesian Model Evaluation Using Leave-One-Out Cross-Validation (Vehtari et al., 2017),
        https://arxiv.org/abs/1507.04544

        Bayesian Leave-One-Out Cross-Validation for Large Data (Magnusson et al., 2019), for the correction,
        https://arxiv.org/abs/1904.10679
    """
    stats, likelihood = dataset(data, "sample_stats"), dataset(data, "log_likelihood")
    local = [name for name in stats if str(name).startswith("log_q_") and "text" in stats[name].dims]
    if local:
        raise ValueError(
            f"{str(local[0]).removeprefix('log_q_')} belongs to one text each, so that leaving a text out leaves it "
            "without data and PSIS-LOO is wrong: compare models on held-out texts with compare(...)."
        )
    if "per_observation" not in likelihood:
        raise ValueError("the data has no log-likelihood per observation: make it with global_posterior(...).")
    rows = likelihood["per_observation"].stack(one=("chain", "draw")).transpose("observation", "one").values
    weights = (stats["log_p"] - stats["log_q"]).stack(one=("chain", "draw")).values
    return smoothed_loo(rows.astype(float), weights.astype(float))


def smoothed_loo(
    log_likelihood: Float[np.ndarray, "n S"], log_weights: Float[np.ndarray, " S"] | None = None
) -> LeaveOneOut:
    r"""The same, from numbers alone; it cannot know whose latents they are.

    Arguments:
        log_likelihood: :math:`\log p(x_i \mid \theta^{(s)})`.
        log_weights: :math:`\log p(x, \theta^{(s)}) - \log q(\theta^{(s)})` up to a constant; none where the draws are
            those of the posterior itself.

    Raises:
        ValueError: If there are fewer than 25 draws.
    """
    count, draws = log_likelihood.shape
    if draws < LEAST_DRAWS:
        raise ValueError(f"there are {draws} draws: leave-one-out needs at least {LEAST_DRAWS}, better some hundred.")
    weights = np.zeros(draws) if log_weights is None else log_weights
    found = [pareto_smoothed(weights - row) for row in log_likelihood]
    each = np.array([_log_sum(smoothed + row) for (smoothed, _), row in zip(found, log_likelihood, strict=True)])
    seen = np.array([_log_sum(weights + row) for row in log_likelihood]) - _log_sum(weights)
    error = float(np.sqrt(count * each.var(ddof=1))) if count > 1 else float("nan")
    return LeaveOneOut(
        float(each.sum()), error, float((seen - each).sum()), each, np.array([shape for _, shape in found])
    )


def _log_sum(values: Float[np.ndarray, " S"]) -> float:
    largest = values.max()
    return float(largest + np.log(np.exp(values - largest).sum()))
