r"""The variances of a query under each component, :math:`\sigma_n^2 + s`, with a placeholder where one is absent."""

import torch
from jaxtyping import Float
from torch import Tensor

from ..utils.precision import at_least_float32
from ..utils.tensor_checks import check_entries, is_readable
from .mixture import Mixture
from .variances import Covariances

__all__ = ["check_variances", "cholesky", "filled", "own_variances", "query_covariances", "query_variances"]


def own_variances(mixture: Mixture) -> Float[Tensor, "..."]:
    """The variances of the components, zero for point masses, with ones where a component is absent.

    They are broadcast no further than those of the mixture.

    Raises:
        ValueError: If they are full covariances.
    """
    own = mixture.dense_variances()
    return mixture.means.new_zeros(1, 1) if own is None else filled(own, mixture, 1.0)


def query_variances(mixture: Mixture) -> Float[Tensor, "..."]:
    """The variances of queries, in float32 at least; like :func:`own_variances`, broadcast no further.

    Examples:
        >>> query_variances(Mixture(torch.zeros(2), torch.zeros(2, 4), torch.tensor([[1.0], [3.0]])))
        tensor([[3.],
                [5.]])
    """
    return at_least_float32(own_variances(mixture)) + mixture.query_variance


def query_covariances(mixture: Mixture) -> Float[Tensor, "*batch n d d"]:
    """The full covariances of queries, in float32 at least, the identity where a component is absent.

    They are broadcast no further.

    Examples:
        >>> covariances = Covariances(torch.ones(1, 2, 2))
        >>> query_covariances(Mixture(torch.zeros(1), torch.zeros(1, 2), covariances, noise_variance=1.0))
        tensor([[[2., 1.],
                 [1., 2.]]])
    """
    assert isinstance(mixture.variances, Covariances)
    matrices = at_least_float32(mixture.variances.matrices)
    identity = torch.eye(mixture.width, dtype=matrices.dtype, device=matrices.device)
    present = _present(mixture, matrices.shape[:-2])
    return torch.where(present[..., None, None], matrices + mixture.query_variance * identity, identity)


def check_variances(mixture: Mixture) -> None:
    """Raises a ValueError if a present component has neither a variance nor noise, where values can be read.

    The density of a query would be infinite.
    """
    noise = mixture.noise_variance
    if noise is None or not (isinstance(noise, Tensor) or noise == 0) or not is_readable(mixture.log_weights, noise):
        return
    total = query_variances(mixture)
    check_entries("variances", total, total > 0, "give positive numbers where noise_variance is 0, or add to that")


def cholesky(covariances: Float[Tensor, "*batch n d d"]) -> Float[Tensor, "*batch n d d"]:
    """The Cholesky factors of the covariances of queries.

    Raises:
        ValueError: If one is not positive definite, with its component.
    """
    try:
        return torch.linalg.cholesky(covariances)
    except torch.linalg.LinAlgError:  # type: ignore[attr-defined]
        failed = torch.linalg.cholesky_ex(covariances).info.flatten().nonzero()
        raise ValueError(
            f"the covariance of component {int(failed[0, 0]) % covariances.shape[-3]} is not positive definite: add to "
            "its diagonal, or to the mixture's noise_variance."
        ) from None


def filled(rows: Float[Tensor, "..."], mixture: Mixture, fill: float = 0.0) -> Float[Tensor, "..."]:
    """The rows with a placeholder where a component is absent, even if it is NaN; of the same shape.

    One row for all components stays as it is.
    """
    if rows.shape[-2] != mixture.components:
        return rows
    return torch.where(_present(mixture, rows.shape[:-1])[..., None], rows, fill)


def _present(mixture: Mixture, shape: torch.Size) -> Tensor:
    """True for the rows, with that shape, of components that are present in any batch element that shares the row."""
    present = mixture.present
    if present.shape == shape:
        return present
    return present.expand(torch.broadcast_shapes(present.shape, shape)).sum_to_size(shape) > 0
