r"""A mixture of Gaussians in scikit-learn's manner, fitted by our own EM."""

import math
import warnings
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, TypeVar, get_args, no_type_check

import numpy as np
import torch
from torch import Tensor

from ...models.attention.m_step import ConjugatePriors
from ...models.attention.mixture import Covariances, Mixture
from ...models.choices import check_choice
from ...models.mixture_attention import MixtureAttention
from ..query_variances import in_dtype
from .arrays import Form, as_counts, as_table, double_rows, form_of, in_form
from .bayesian import default_priors, model_of, sites_of
from .conventions import ConvergenceWarning, Estimator, NotFittedError, of_sklearn
from .fitting import CovarianceType, Fitted, Problem, first_mixture, fit_mixture
from .missing import observed_log_joint
from .options import check_number, check_priors, given_start, own_generator, seed_of, start_generator
from .starts import Start, start_statistics
from .table import Rows, summarized

__all__ = ["GaussianMixture"]

Self = TypeVar("Self", bound="GaussianMixture")
Array = np.ndarray | Tensor
ROWS = 2**20  # rows times components times coordinates, of which densities are computed at once


class GaussianMixture(Estimator):
    r"""A mixture of Gaussians, fitted by EM: the interface of ``sklearn.mixture.GaussianMixture``.

    .. math:: p(x) = \sum_{k=1}^{K} \pi_k \, N(x; \mu_k, \Sigma_k)

    From the same start it goes through the same parameters as scikit-learn's. In addition it takes tensors, on their
    device, and returns tensors for them; rows whose coordinates are missing in part (NaN), which EM integrates out;
    weights of rows; conjugate priors; tables on disk and streams of batches; and it becomes a Pyro model.

    All is computed in double precision; results have the dtype of the input, in float32 at least.

    Arguments:
        n_components: The number of components :math:`K`.
        covariance_type: ``full``: each component has a covariance of its own; ``tied``: all share one; ``diag``: each
            has its own variances; ``spherical``: each has one variance.
        tol: EM stops when a step changes the objective of each row by less.
        reg_covar: What is added to all variances after each step. Only with 0 does the objective never fall.
        max_iter: The largest number of steps. With 0, the parameters are those of the start.
        n_init: The number of starts; the fit with the best objective is kept.
        init_params: How a start is found, see :mod:`~pyroformer.inference.gaussian_mixture.starts`: ``kmeans``,
            ``k-means++``, ``random_from_data`` or ``random``.
        weights_init: Weights to start at, with shape :math:`(K)`.
        means_init: Means to start at, with shape :math:`(K, D)`.
        precisions_init: Precisions to start at, in the shape of ``precisions_``.
        priors: Conjugate priors, :class:`~pyroformer.em.ConjugatePriors`; EM then finds the mode of the posterior.
            Means are centered at the mean of all rows, which is worth ``priors.means`` rows to each component. With
            ``rate=None`` the variances of all rows, over :math:`K^{2/D}`, are worth one row. None is maximum
            likelihood.
        batch_size: The number of rows that are read at a time; None is all. A ``numpy.memmap`` then stays on disk.
        random_state: Seed of starts and samples: a number, or a generator of NumPy or torch. None follows
            ``torch.manual_seed``.

    Attributes:
        weights_: :math:`\pi`, with shape :math:`(K)`.
        means_: :math:`\mu`, with shape :math:`(K, D)`.
        covariances_: :math:`\Sigma`, with shape :math:`(K, D, D)`, :math:`(D, D)` if tied, :math:`(K, D)` if diagonal,
            :math:`(K)` if spherical.
        precisions_: Their inverses, in the same shape.
        converged_: Whether the last step changed the objective of each row by less than ``tol``.
        n_iter_: The number of steps of the best start.
        lower_bound_: The mean log density of a row, with ``priors`` the log density of the parameters included, before
            the last step.
        lower_bounds_: The same in all steps.
        n_features_in_: :math:`D`.

    References:
        Maximum Likelihood from Incomplete Data via the EM Algorithm (Dempster, Laird and Rubin, 1977).

        Bayesian Regularization for Normal Mixture Estimation (Fraley and Raftery, 2007), whose priors are those of
        ``priors``.

    Examples:
        >>> x = torch.cat([torch.randn(50, 2) - 5, torch.randn(50, 2) + 5])
        >>> mixture = pf.GaussianMixture(2, random_state=0).fit(x)
        >>> mixture.converged_, mixture.predict(x).unique().tolist()
        (True, [0, 1])
        >>> mixture.predict_proba(x).shape
        torch.Size([100, 2])
    """

    n_components: int
    covariance_type: CovarianceType
    tol: float
    reg_covar: float
    max_iter: int
    n_init: int
    init_params: Start
    weights_init: Any
    means_init: Any
    precisions_init: Any
    priors: ConjugatePriors | None
    batch_size: int | None
    random_state: Any
    weights_: Any
    means_: Any
    covariances_: Any
    converged_: bool
    n_iter_: int
    lower_bound_: float
    lower_bounds_: list[float]
    n_features_in_: int

    # No type is checked here: scikit-learn's rule is that only `fit` looks at what it gets.
    @no_type_check
    def __init__(
        self,
        n_components: int = 1,
        *,
        covariance_type: CovarianceType = "full",
        tol: float = 1e-3,
        reg_covar: float = 1e-6,
        max_iter: int = 100,
        n_init: int = 1,
        init_params: Start = "kmeans",
        weights_init: Any = None,
        means_init: Any = None,
        precisions_init: Any = None,
        priors: ConjugatePriors | None = None,
        batch_size: int | None = None,
        random_state: Any = None,
    ) -> None:
        self.n_components = n_components
        self.covariance_type = covariance_type
        self.tol = tol
        self.reg_covar = reg_covar
        self.max_iter = max_iter
        self.n_init = n_init
        self.init_params = init_params
        self.weights_init = weights_init
        self.means_init = means_init
        self.precisions_init = precisions_init
        self.priors = priors
        self.batch_size = batch_size
        self.random_state = random_state

    def fit(self: Self, X: object, y: object = None, sample_weight: object = None) -> Self:
        """Fits the mixture to rows, NaN where a coordinate is missing.

        Arguments:
            X: A table of M rows and D columns: an array, a tensor, a data frame or a list of lists.
            y: Ignored; pipelines give it.
            sample_weight: How many times each row counts, with shape :math:`(M)`.

        Raises:
            ValueError: If an option is out of range, X is no table of numbers, or a covariance becomes singular.
        """
        size = self.batch_size if self.batch_size is None else check_number("batch_size", self.batch_size, int, 1)
        return self._fit(Rows.of_table(X, sample_weight, size))

    def fit_batches(self: Self, batches: Iterable[object] | Callable[[], Iterable[object]]) -> Self:
        """Fits the mixture to all rows of some tables, of which one is in memory at a time.

        The result is that of :meth:`fit` on all of them: each step reads all batches and adds up what the M-step needs.

        Arguments:
            batches: A list of tables, a data loader or any other iterable that can be read again and again; or a
                function that returns an iterator.

        Raises:
            ValueError: As :meth:`fit`, or if the batches can be read only once.

        Examples:
            >>> x = torch.randn(90, 2)
            >>> whole, parts = pf.GaussianMixture().fit(x), pf.GaussianMixture().fit_batches(x.split(20))
            >>> torch.allclose(whole.covariances_, parts.covariances_)
            True
        """
        return self._fit(Rows.of_batches(batches))

    def fit_predict(self, X: object, y: object = None, sample_weight: object = None) -> Array:
        """The most probable component of each row, after a fit to them."""
        return self.fit(X, y, sample_weight).predict(X)

    def predict(self, X: object) -> Array:
        """The most probable component of each row, with shape :math:`(M)`."""
        joint, form = self._log_joint(X)
        return in_form(joint.argmax(-1), form)

    def predict_proba(self, X: object) -> Array:
        r"""The posterior probability of each component given the known coordinates of each row, :math:`(M, K)`."""
        joint, form = self._log_joint(X)
        return in_form(joint.softmax(-1), form)

    def score_samples(self, X: object) -> Array:
        r"""The log density of the known coordinates of each row, with shape :math:`(M)`."""
        joint, form = self._log_joint(X)
        return in_form(joint.logsumexp(-1), form)

    def score(self, X: object, y: object = None, sample_weight: object = None) -> float:
        """The mean log density of the rows, weighted by ``sample_weight``."""
        densities = self._log_joint(X)[0].logsumexp(-1)
        if sample_weight is None:
            return float(densities.mean())
        counts = as_counts(sample_weight, len(densities), densities.device)
        return float(counts @ densities / counts.sum())

    def bic(self, X: object) -> float:
        r"""The Bayesian information criterion, :math:`-2 \log p(X) + P \log M` with P free parameters: low is good."""
        densities = self._log_joint(X)[0].logsumexp(-1)
        return float(-2 * densities.sum() + self._parameters() * math.log(len(densities)))

    def aic(self, X: object) -> float:
        r"""Akaike's information criterion, :math:`-2 \log p(X) + 2 P`: low is good."""
        return float(-2 * self._log_joint(X)[0].logsumexp(-1).sum() + 2 * self._parameters())

    def sample(self, n_samples: int = 1) -> tuple[Array, Array]:
        """Draws rows; also returns their components.

        Raises:
            ValueError: If ``n_samples`` is below 1, or the estimator has not been fitted.

        Examples:
            >>> rows, components = pf.GaussianMixture(2, random_state=0).fit(torch.randn(30, 2)).sample(5)
            >>> rows.shape, components.shape
            (torch.Size([5, 2]), torch.Size([5]))
        """
        mixture, number = self._double_mixture(torch.device("cpu")), check_number("n_samples", n_samples, int, 1)
        generator = own_generator(seed_of(self.random_state))
        labels = torch.multinomial(mixture.log_weights.exp(), number, replacement=True, generator=generator)
        noise = torch.randn(number, mixture.width, generator=generator, dtype=torch.double)
        if isinstance(mixture.variances, Covariances):
            factors = torch.linalg.cholesky(mixture.variances.matrices)
            for label, factor in enumerate(factors):
                chosen = labels == label
                noise[chosen] = noise[chosen] @ factor.mT
        else:
            assert isinstance(mixture.variances, Tensor)
            noise = noise * mixture.variances.sqrt()[labels]
        return in_form(mixture.means[labels] + noise, self._form), in_form(labels, self._form)

    @property
    def precisions_(self) -> Array:
        """The inverses of the covariances, in the same shape."""
        self._check_fitted()
        covariances = torch.as_tensor(self.covariances_).double()
        full = self.covariance_type in ("full", "tied")
        return in_form(
            torch.cholesky_inverse(torch.linalg.cholesky(covariances)) if full else 1 / covariances, self._form
        )

    def to_mixture(self) -> Mixture:
        """The mixture in the form that attention takes: ``pf.attend(queries, mixture)``; not with full covariances.

        Examples:
            >>> x = torch.randn(30, 2)
            >>> fitted = pf.GaussianMixture(2, covariance_type="diag").fit(x)
            >>> evidence = pf.attend(x, fitted.to_mixture(), returns="evidence")
            >>> torch.allclose(evidence, fitted.score_samples(x), atol=1e-5)
            True
        """
        return in_dtype(self._double_mixture(self._form.device), self._form.dtype)

    def to_model(self, priors: ConjugatePriors | None = None) -> MixtureAttention:
        r"""The Pyro model of the rows, whose weights, means and precisions have priors: for NUTS and SVI.

        Its log joint density is the objective of EM with these priors, up to a constant; so a fit with ``priors`` is
        the mode of its posterior. :meth:`sites` are the values of its sites at the fit, where chains and guides start.
        Queries are the rows, all of whose coordinates have to be known.

        Arguments:
            priors: The priors; None are those of the fit or, after maximum likelihood, ``ConjugatePriors(means=0.01)``.

        Raises:
            ValueError: If components have full covariances, or a prior is improper.

        Examples:
            >>> x = torch.randn(30, 2)
            >>> fitted = pf.GaussianMixture(2, covariance_type="diag").fit(x)
            >>> pyro.poutine.trace(fitted.to_model()).get_trace(x).nodes["keys"]["value"].shape
            torch.Size([2, 2])
        """
        self._check_fitted()
        chosen = default_priors(self.priors) if priors is None else check_priors(priors)
        return model_of(self.to_mixture(), self.covariance_type, self._moments, chosen)

    def sites(self) -> dict[str, Tensor]:
        """The values of the sites of :meth:`to_model` at the fit: ``weights``, ``keys`` (the means), ``precision``."""
        self._check_fitted()
        return sites_of(self.to_mixture())

    def _fit(self: Self, rows: Rows) -> Self:
        """Fits the mixture from every start and keeps the best."""
        check_choice("covariance_type", self.covariance_type, get_args(CovarianceType))
        check_choice("init_params", self.init_params, get_args(Start))
        steps, starts = check_number("max_iter", self.max_iter, int, 0), check_number("n_init", self.n_init, int, 1)
        tolerance, seed = check_number("tol", self.tol, float, 0), seed_of(self.random_state)
        problem = Problem(
            rows,
            summarized(rows),
            self.covariance_type,
            check_number("n_components", self.n_components, int, 1),
            None if self.priors is None else check_priors(self.priors),
            check_number("reg_covar", self.reg_covar, float, 0),
        )
        given = given_start(problem, weights=self.weights_init, means=self.means_init, precisions=self.precisions_init)
        best: Fitted | None = None
        for number in range(starts):
            with start_generator(seed, number):
                statistics = start_statistics(
                    problem.summary, problem.components, self.init_params, problem.squares, given
                )
            fit = fit_mixture(problem, given.applied(first_mixture(problem, statistics)), steps, tolerance)
            if best is None or (fit.bounds and fit.bounds[-1] > best.bounds[-1]):
                best = fit
        assert best is not None
        self._keep(problem, best)
        if steps and not best.converged:
            change = abs(best.bounds[-1] - best.bounds[-2]) if steps > 1 else math.inf
            message = (
                f"EM has not converged in max_iter={steps} steps: the last changed the objective of each row by "
                f"{change:.2g}, and tol is {tolerance:g}. Raise max_iter or tol"
            )
            warnings.warn(message, of_sklearn(ConvergenceWarning), stacklevel=3)
        return self

    def _keep(self, problem: Problem, best: Fitted) -> None:
        """Sets the attributes of a fitted estimator."""
        form, summary, mixture = problem.rows.form, problem.summary, best.mixture
        matrices = isinstance(mixture.variances, Covariances)
        variances = mixture.variances.matrices if isinstance(mixture.variances, Covariances) else mixture.variances
        assert isinstance(variances, Tensor)
        if self.covariance_type == "tied":
            variances = variances[0]
        elif self.covariance_type == "spherical":
            variances = variances[:, 0]
        assert matrices == (self.covariance_type in ("full", "tied"))
        self._form, self._moments = form, (summary.mean.cpu(), summary.variance.cpu())
        self.weights_ = in_form(mixture.log_weights.exp(), form)
        self.means_ = in_form(mixture.means + summary.mean, form)
        self.covariances_ = in_form(variances, form)
        self.converged_, self.n_iter_ = best.converged, len(best.bounds)
        self.lower_bounds_ = best.bounds
        self.lower_bound_ = best.bounds[-1] if best.bounds else -math.inf
        self.n_features_in_ = problem.summary.mean.shape[0]

    def _double_mixture(self, device: torch.device) -> Mixture:
        """The fitted mixture in double precision."""
        self._check_fitted()
        dtype = torch.float32 if device.type == "mps" else torch.float64
        weights, means, variances = (
            torch.as_tensor(part).to(device, dtype) for part in (self.weights_, self.means_, self.covariances_)
        )
        if self.covariance_type in ("full", "tied"):
            matrices = Covariances(variances.expand(len(means), *variances.shape[-2:]))
            return Mixture(weights.log(), means, matrices, noise_variance=0.0)
        return Mixture(
            weights.log(), means, variances if variances.ndim > 1 else variances[:, None], noise_variance=0.0
        )

    @torch.no_grad()
    def _log_joint(self, x: object) -> tuple[Tensor, Form]:
        """The log joint density of each row and component, and the form of the input."""
        self._check_fitted()
        table = as_table(x)
        if table.shape[1] != self.n_features_in_:
            raise ValueError(
                f"X has {table.shape[1]} features, but {type(self).__name__} is expecting {self.n_features_in_} "
                "features as input: give the columns that it was fitted to"
            )
        if len(table) == 0:
            raise ValueError(f"X has 0 rows (shape={tuple(table.shape)}): give at least one")
        form = form_of(table)
        mixture = self._double_mixture(form.device)
        center = mixture.means.mean(0)
        mixture = replace(mixture, means=mixture.means - center)
        size = max(1, ROWS // (mixture.components * mixture.width))
        parts = [
            observed_log_joint(double_rows(table, slice(start, start + size)) - center, mixture)
            for start in range(0, len(table), size)
        ]
        return torch.cat(parts), form

    def _parameters(self) -> int:
        """The number of free parameters."""
        components, width = self.means_.shape
        of_covariances = {
            "full": components * width * (width + 1) // 2,
            "tied": width * (width + 1) // 2,
            "diag": components * width,
            "spherical": components,
        }
        return of_covariances[self.covariance_type] + components * width + components - 1

    def _check_fitted(self) -> None:
        if not hasattr(self, "weights_"):
            name = type(self).__name__
            raise of_sklearn(NotFittedError)(f"this {name} is not fitted yet: call fit(X) first")
