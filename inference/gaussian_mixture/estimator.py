r"""A mixture of Gaussians in scikit-learn's manner, fitted by our own EM."""

import math
import warnings
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, TypeVar, get_args, no_type_check

from torch import Tensor

from ...models.attention.em.conjugate_priors import ConjugatePriors
from ...models.attention.variances import Covariances
from ...models.utils.choices import check_choice
from ...models.utils.seeding import forked_rng
from ..utils.seeds import derived_seed
from .arrays import in_form
from .conventions import ConvergenceWarning, of_sklearn
from .fitted import Array, FittedMixture
from .fitting import CovarianceType, EMResult, Problem, first_mixture, fit_mixture
from .online import OnlineState, online_step, state_of
from .options import check_number, check_priors, given_start, seed_of
from .starts import Start, start_statistics
from .table import Rows, summarized

__all__ = ["GaussianMixture"]

Self = TypeVar("Self", bound="GaussianMixture")


class GaussianMixture(FittedMixture):
    r"""A mixture of Gaussians, fitted by EM: the interface of ``sklearn.mixture.GaussianMixture``.

    .. math:: p(x) = \sum_{k=1}^{K} \pi_k \, N(x; \mu_k, \Sigma_k)

    From the same start it goes through the same parameters as scikit-learn's. In addition it takes tensors, on their
    device, and returns tensors for them; rows whose coordinates are missing in part (NaN), which EM integrates out;
    weights of rows; conjugate priors; tables on disk and streams of batches; and it becomes a Pyro model.

    All computations are in double precision, with the parameters of the fit in double precision, unless you assign new
    ones. Results have the dtype of the input, float32 at least. What a fitted mixture answers is in
    :class:`~pyroformer.inference.gaussian_mixture.fitted.FittedMixture`.

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
            Means are centered at the mean of all rows, which is worth ``priors.pseudo_counts`` rows to each component.
            With ``rate=None`` the variances of all rows, over :math:`K^{2/D}`, are worth one row. None is maximum
            likelihood.
        batch_size: The number of rows that are read at a time; None is all. A ``numpy.memmap`` then stays on disk.
        learning_decay: How fast :meth:`partial_fit` forgets, see
            :mod:`~pyroformer.inference.gaussian_mixture.online`: above 0.5, and 1 for batches that all count alike.
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
        learning_decay: float = 0.7,
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
        self.learning_decay = learning_decay
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

    def partial_fit(self: Self, X: object, y: object = None, sample_weight: object = None) -> Self:
        """One step of online EM on a batch of rows, which are then forgotten: for streams that can be read once.

        The first batch is fitted as :meth:`fit` does; it has to be large enough for all components. Later ones move the
        parameters less and less, by ``learning_decay``. After :meth:`fit` the steps go on from there. ``lower_bounds_``
        has the mean log density of each batch before its step, and ``converged_`` is False.

        Arguments:
            X: A table of rows, NaN where a coordinate is missing; every column needs one that is known.
            y: Ignored.
            sample_weight: How many times each row counts, with shape :math:`(M)`.

        Raises:
            ValueError: If an option is out of range, X is no table of numbers or has other columns than before, or a
                covariance becomes singular.

        Examples:
            >>> mixture = pf.GaussianMixture(2, covariance_type="diag", random_state=0)
            >>> for _ in range(20):
            ...     left = torch.rand(100, 1) < 0.3
            ...     _ = mixture.partial_fit(torch.where(left, -5.0, 5.0) + torch.randn(100, 1))
            >>> mixture.means_.flatten().sort().values.round().tolist(), mixture.n_iter_
            ([-5.0, 5.0], 20)
        """
        decay = check_number("learning_decay", self.learning_decay, float, 0)
        if not 0.5 < decay <= 1:
            raise ValueError(f"learning_decay is {decay}: give a number above 0.5 and at most 1, such as 0.7.")
        rows = Rows.of_table(X, sample_weight)
        if not hasattr(self, "weights_"):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of the first batch's convergence
                self._fit(rows)
            self.converged_, self.n_iter_, self.lower_bounds_ = False, 1, [self.lower_bound_]
            return self
        problem = self._problem(rows)
        if len(problem.summary.mean) != self.n_features_in_:
            raise ValueError(
                f"X has {len(problem.summary.mean)} features, but {type(self).__name__} is expecting "
                f"{self.n_features_in_} features as input: give the columns that it was fitted to."
            )
        for name, now, before in (
            ("n_components", self.n_components, len(self.means_)),
            ("covariance_type", self.covariance_type, self._kind),
        ):
            if now != before:
                raise ValueError(f"{name} is {now!r} and the fit has {before!r}: leave it as it was, or call fit.")
        state = self._online or self._state_of_fit(problem)
        state, bound = online_step(problem, state, decay)
        bounds = [*(self.lower_bounds_ if state.steps > 2 else [self.lower_bound_]), bound]
        shift = state.summary.mean - state.origin
        centered = replace(state.mixture, means=state.mixture.means - shift)
        self._keep(replace(problem, summary=state.summary), EMResult(centered, bounds, False))
        self._online = state
        return self

    def fit_predict(self, X: object, y: object = None, sample_weight: object = None) -> Array:
        """The most probable component of each row, after a fit to them."""
        return self.fit(X, y, sample_weight).predict(X)

    def _fit(self: Self, rows: Rows) -> Self:
        """Fits the mixture from every start and keeps the best."""
        check_choice("init_params", self.init_params, get_args(Start))
        steps, starts = check_number("max_iter", self.max_iter, int, 0), check_number("n_init", self.n_init, int, 1)
        tolerance, seed = check_number("tol", self.tol, float, 0), seed_of(self.random_state)
        problem = self._problem(rows)
        given = given_start(problem, weights=self.weights_init, means=self.means_init, precisions=self.precisions_init)
        best: EMResult | None = None
        for number in range(starts):
            with forked_rng(derived_seed(seed, "start", number)):
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

    def _problem(self, rows: Rows) -> Problem:
        """The rows and the options of their fit, checked."""
        check_choice("covariance_type", self.covariance_type, get_args(CovarianceType))
        return Problem(
            rows,
            summarized(rows),
            self.covariance_type,
            check_number("n_components", self.n_components, int, 1),
            None if self.priors is None else check_priors(self.priors),
            check_number("reg_covar", self.reg_covar, float, 0),
        )

    def _state_of_fit(self, problem: Problem) -> OnlineState:
        """Where online EM goes on after a fit."""
        mean, variance = (part.to(problem.summary.mean) for part in self._moments)
        mixture = self._double_mixture(mean.device)
        summary = replace(problem.summary, total=self._total, mean=mean, variance=variance)
        return state_of(replace(mixture, means=mixture.means - mean), summary, problem.squares == "full")

    def _keep(self, problem: Problem, best: EMResult) -> None:
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
        self._total, self._online, self._kind = summary.total, None, self.covariance_type
        self._exact = (mixture.log_weights.exp(), mixture.means + summary.mean, variances)
        self.weights_, self.means_, self.covariances_ = (in_form(part, form) for part in self._exact)
        self.converged_, self.n_iter_ = best.converged, len(best.bounds)
        self.lower_bounds_ = best.bounds
        self.lower_bound_ = best.bounds[-1] if best.bounds else -math.inf
        self.n_features_in_ = problem.summary.mean.shape[0]
