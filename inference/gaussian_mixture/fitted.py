"""Queries to a fitted mixture of Gaussians: components, densities, samples, and its Pyro model."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...models.attention.em.conjugate_priors import ConjugatePriors
from ...models.attention.mixture import Mixture, in_dtype
from ...models.attention.variances import Covariances
from ...models.mixture_attention.model import MixtureAttention
from .arrays import Form, as_counts, as_table, double_rows, form_of, in_form
from .bayesian import default_priors, model_of, sites_of
from .conventions import Estimator, NotFittedError, of_sklearn
from .fitting import CovarianceType
from .missing import observed_log_joint
from .online import OnlineState
from .options import check_number, check_priors, own_generator, seed_of
from .starts import Start

__all__ = ["Array", "FittedMixture"]

Array = np.ndarray | Tensor
ROWS = 2**20  # rows times components times coordinates, of which densities are computed at once


class FittedMixture(Estimator):
    """The methods of :class:`~pyroformer.GaussianMixture` that ask a fitted one.

    Examples:
        >>> fitted = pf.GaussianMixture().fit([[0.0], [2.0]])
        >>> fitted.means_.tolist(), round(fitted.score([[1.0]]), 4)
        ([[1.0]], -0.9189)
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
    learning_decay: float
    random_state: Any
    weights_: Any
    means_: Any
    covariances_: Any
    converged_: bool
    n_iter_: int
    lower_bound_: float
    lower_bounds_: list[float]
    n_features_in_: int
    _exact: tuple[Tensor, Tensor, Tensor]
    _form: Form
    _moments: tuple[Tensor, Tensor]
    _total: float
    _online: OnlineState | None
    _kind: CovarianceType

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
        density, count = self._log_density(X, sample_weight)
        return density / count

    def bic(self, X: object, sample_weight: object = None) -> float:
        r"""The Bayesian information criterion, :math:`-2 \log p(X) + P \log M` with P free parameters: low is good.

        With ``sample_weight``, :math:`M` is its sum.
        """
        density, count = self._log_density(X, sample_weight)
        return -2 * density + self._parameters() * math.log(count)

    def aic(self, X: object, sample_weight: object = None) -> float:
        r"""Akaike's information criterion, :math:`-2 \log p(X) + 2 P`: low is good."""
        return -2 * self._log_density(X, sample_weight)[0] + 2 * self._parameters()

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
                own = labels == label
                noise[own] = noise[own] @ factor.mT
        else:
            assert isinstance(mixture.variances, Tensor)
            noise = noise * mixture.variances.sqrt()[labels]
        return in_form(mixture.means[labels] + noise, self._form), in_form(labels, self._form)

    @property
    def precisions_(self) -> Array:
        """The inverses of the covariances, in the same shape."""
        covariances = self._double_parameters()[2]
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

        For ``diag`` and ``spherical`` its log joint density is the objective of EM with these priors, up to a constant:
        a fit with ``priors`` is the mode of its posterior. For ``full`` each coordinate has a precision of its own
        with that prior, and correlations have one that is uniform (LKJ); for ``tied`` the covariance stays that of the
        fit. :meth:`sites` are the values of its sites at the fit, where chains and guides start. Queries are the rows,
        all of whose coordinates have to be known.

        Arguments:
            priors: The priors; None are those of the fit or, after maximum likelihood,
                ``ConjugatePriors(pseudo_counts=0.01)``.

        Raises:
            ValueError: If a prior is improper.

        Examples:
            >>> x = torch.randn(30, 2)
            >>> fitted = pf.GaussianMixture(2, covariance_type="diag").fit(x)
            >>> pyro.poutine.trace(fitted.to_model()).get_trace(x).nodes["keys"]["value"].shape
            torch.Size([2, 2])
        """
        self._check_fitted()
        priors = default_priors(self.priors) if priors is None else check_priors(priors)
        return model_of(self.to_mixture(), self.covariance_type, self._moments, priors)

    def sites(self) -> dict[str, Tensor]:
        """The values of the sites of :meth:`to_model` at the fit, by name.

        These are ``weights`` and ``keys`` (the means); unless covariances are tied ``precision``, one over the
        variances; and, if they are full, ``correlation``, the Cholesky factors of the correlations.
        """
        self._check_fitted()
        return sites_of(self.to_mixture(), self.covariance_type)

    def _double_mixture(self, device: torch.device) -> Mixture:
        """The fitted mixture in double precision."""
        dtype = torch.float32 if device.type == "mps" else torch.float64
        weights, means, variances = (part.to(device, dtype) for part in self._double_parameters())
        if self.covariance_type in ("full", "tied"):
            matrices = Covariances(variances.expand(len(means), *variances.shape[-2:]))
            return Mixture(weights.log(), means, matrices, noise_variance=0.0)
        return Mixture(
            weights.log(), means, variances if variances.ndim > 1 else variances[:, None], noise_variance=0.0
        )

    def _double_parameters(self) -> tuple[Tensor, Tensor, Tensor]:
        """Weights, means and covariances: those of the fit, not rounded, unless somebody has changed the attributes."""
        self._check_fitted()
        public = [torch.as_tensor(part).cpu() for part in (self.weights_, self.means_, self.covariances_)]
        exact = getattr(self, "_exact", None)  # estimators that were pickled earlier have none
        if exact is not None:
            rounded = [torch.as_tensor(in_form(part, self._form)).cpu() for part in exact]
            if all(map(np.array_equal, rounded, public)):
                return exact
        weights, means, covariances = (part.double() for part in public)
        return weights, means, covariances

    def _log_density(self, x: object, sample_weight: object) -> tuple[float, float]:
        """The log density of all rows, and how many these are."""
        densities = self._log_joint(x)[0].logsumexp(-1)
        if sample_weight is None:
            return float(densities.sum()), len(densities)
        counts = as_counts(sample_weight, len(densities), densities.device)
        return float(counts @ densities), float(counts.sum())

    @torch.no_grad()
    def _log_joint(self, x: object) -> tuple[Tensor, Form]:
        """The log joint density of each row and component, and the form of the input."""
        self._check_fitted()
        table = as_table(x)
        if table.shape[1] != self.n_features_in_:
            raise ValueError(
                f"X has {table.shape[1]} features, but {type(self).__name__} is expecting {self.n_features_in_} "
                "features as input: give the columns that it was fitted to."
            )
        if len(table) == 0:
            raise ValueError(f"X has 0 rows (shape={tuple(table.shape)}): give at least one.")
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
            raise of_sklearn(NotFittedError)(f"this {name} is not fitted yet: call fit(X) first.")
