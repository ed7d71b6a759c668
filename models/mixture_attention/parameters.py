"""The parameters of a mixture's components: drawn from priors, or a model's own."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ..attention.mixture import Mixture
from ..attention.variances import SharedVariances
from ..local_params import LocalModule
from ..utils.scalars import tensor_like

__all__ = ["MixtureParameters", "OwnParameters"]


class MixtureParameters(NamedTuple):
    """The parameters of the components, drawn or fixed; particles and other draws come before ``batch``."""

    log_weights: Float[Tensor, "..."]  # [*batch 1 N], or [N] of a single mixture
    keys: Float[Tensor, "..."]  # [*batch N D]
    precision: Float[Tensor, "..."]  # [*batch N|1 D|1], of each dimension alone
    values: Float[Tensor, "..."] | None  # [*batch N V]
    value_precision: Float[Tensor, "..."] | None  # [*batch N|1 V|1]
    correlation: Float[Tensor, "..."] | None = None  # [*batch N D D], Cholesky factors


class OwnParameters(LocalModule):
    """A module with the parameters of a mixture as its own: fixed, or trained where they are ``nn.Parameter``."""

    means: Tensor
    log_weights: Tensor
    noise_variance: Tensor
    variances: Tensor | None
    group: Tensor | None
    mask: Tensor | None
    component_values: Tensor | None
    value_variances: Tensor | None
    correlation: Tensor | None

    def _register(self, mixture: Mixture, factors: Tensor | None) -> None:
        means, variances, present = mixture.means, mixture.variances, mixture.present
        shared = variances if isinstance(variances, SharedVariances) else None
        _set(self, "means", means)
        _set(self, "log_weights", mixture.log_weights)
        _set(self, "noise_variance", tensor_like(mixture.query_variance, means))
        _set(self, "variances", mixture.dense_variances() if shared is None else shared.table)
        _set(self, "group", None if shared is None else shared.group)
        _set(self, "mask", None if bool(present.all()) else present)
        _set(self, "component_values", mixture.values)
        _set(self, "value_variances", mixture.value_variances)
        _set(self, "correlation", factors)

    @property
    def leading(self) -> torch.Size:
        """The mixture's leading dimensions: those of the plates around its components."""
        parts = {
            -1: (self.log_weights, self.mask, self.group),
            -2: (self.means, self.variances, self.component_values, self.value_variances),
            -3: (self.correlation,),
        }
        shapes = [x.shape[:end] for end, tensors in parts.items() for x in tensors if x is not None]
        return torch.broadcast_shapes(*shapes)

    @property
    def components(self) -> int:
        """The number of components."""
        return self.means.shape[-2]

    def resolve_masks(
        self, attn_mask: Bool[Tensor, "..."] | None = None, mask: Bool[Tensor, "..."] | None = None
    ) -> tuple[Bool[Tensor, "..."] | None, Bool[Tensor, "..."] | None]:
        """Components that a query may attend to, ``[*batch, M or 1, N]``, and queries that count, ``[*batch, M]``."""
        present = self.mask[..., None, :] if self.mask is not None and self.leading else self.mask
        if attn_mask is None:
            return present, mask
        allowed = attn_mask if present is None else attn_mask & present
        return allowed, allowed.any(-1) if mask is None else allowed.any(-1) & mask

    def own_parameters(self) -> MixtureParameters:
        """The parameters without a prior's draws, filled where components are absent."""
        variances = self._own_variances()
        total = self.noise_variance.expand(1, 1) if variances is None else variances + self.noise_variance
        return MixtureParameters(
            self.log_weights[..., None, :] if self.leading else self.log_weights,
            self._filled(self.means, 0.0),
            1 / self._filled(total, 1.0),
            None if self.component_values is None else self._filled(self.component_values, 0.0),
            None if self.value_variances is None else 1 / self._filled(self.value_variances, 1.0),
            self.correlation,
        )

    def _own_variances(self) -> Tensor | None:
        """The variances of the components without noise."""
        if self.group is None or self.variances is None:
            return self.variances
        return SharedVariances(self.variances, self.group).dense()

    def _filled(self, rows: Tensor, fill: float) -> Tensor:
        """One row for each component, filled where that is absent; one row for all of them stays one."""
        if self.mask is None or rows.shape[-2] != self.components:
            return rows
        return torch.where(self.mask[..., None], rows, fill)

    def _component_mask(self) -> Tensor:
        """True for the components that exist, in the shape of the weights."""
        shape = (*self.leading, self.components)
        mask = torch.ones(shape, dtype=torch.bool, device=self.means.device)
        mask = mask if self.mask is None else mask & self.mask
        return mask[..., None, :] if self.leading else mask


def _set(module: nn.Module, name: str, tensor: Tensor | None) -> None:
    """Sets an attribute: a parameter if the tensor is one, and otherwise a buffer, whose gradient nobody may want."""
    if tensor is not None and not tensor.is_leaf:
        raise ValueError(
            f"{name} is computed from a tensor that requires a gradient, which the model would not train: give an "
            "nn.Parameter itself (full covariances have none), or a detached tensor."
        )
    if isinstance(tensor, nn.Parameter):
        setattr(module, name, tensor)
    else:
        module.register_buffer(name, tensor)
