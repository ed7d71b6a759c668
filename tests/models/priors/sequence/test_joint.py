"""Joint distributions keep the densities of the value asked for last, as long as they hold."""

from typing import Any

import pytest
import torch
from torch import Tensor

from pyroformer.models.priors.sequence.codebook import Codebook
from pyroformer.models.priors.sequence.joint import InOrder
from pyroformer.models.priors.sequence.last import Last
from pyroformer.models.priors.sequence.tokens import TokenVectorPrior

SCALE = torch.nn.Parameter(torch.tensor(2.0))
MEANS, STDS, SHIFT = torch.randn(6, 4), torch.rand(6, 4) + 0.5, torch.randn(3, 5, 4)


def in_order() -> InOrder:
    def conditional(vectors: Tensor, length: Tensor) -> Any:
        mean = SCALE * torch.nn.functional.pad(vectors, (0, 0, 1, -1))
        return torch.distributions.Independent(torch.distributions.Normal(mean, 1.0), 1)

    return InOrder(conditional, lambda length, rows: torch.randn(3, rows, 4), torch.ones(3, 5, dtype=torch.bool), 4)


def codebook() -> Codebook:
    return Codebook(SCALE.expand(3, 5, 6), SCALE * MEANS, STDS, SHIFT)


PRIOR = TokenVectorPrior(4, vocabulary=6, heads=2)
KINDS = {"in_order": in_order, "codebook": codebook, "stacked": lambda: PRIOR(torch.ones(3, 5, dtype=torch.bool))}


@pytest.mark.parametrize("kind", KINDS)
def test_a_density_follows_a_change_in_place(kind: str) -> None:
    distribution, z = KINDS[kind](), torch.randn(3, 5, 4)
    distribution.log_prob(z)
    z += 1
    assert torch.equal(distribution.log_prob(z), KINDS[kind]().log_prob(z.clone()))


@pytest.mark.parametrize("kind", KINDS)
def test_a_density_has_gradients_after_a_call_without(kind: str) -> None:
    distribution, z = KINDS[kind](), torch.randn(3, 5, 4)
    with torch.no_grad():
        before = distribution.log_prob(z)
    assert not before.requires_grad and distribution.log_prob(z).requires_grad
    distribution.log_prob(z.requires_grad_()).sum().backward()
    assert z.grad is not None


@pytest.mark.parametrize("kind", ["in_order", "stacked"])
def test_a_density_can_be_climbed_in_place(kind: str) -> None:
    distribution, z = KINDS[kind](), torch.randn(3, 5, 4, requires_grad=True)
    for _ in range(2):
        (gradient,) = torch.autograd.grad(distribution.log_prob(z).sum(), z)
        (expected,) = torch.autograd.grad(KINDS[kind]().log_prob(z).sum(), z)
        torch.testing.assert_close(gradient, expected)
        with torch.no_grad():
            z += 0.1 * gradient


def test_densities_of_a_codebook_follow_its_means_deviations_and_shift() -> None:
    means, stds, shift, z = MEANS.clone(), STDS.clone(), SHIFT.clone(), torch.randn(3, 5, 4)
    distribution = Codebook(torch.zeros(3, 5, 6), means, stds, shift)
    for changed in (means, stds, shift):
        distribution.log_prob(z)
        changed += 0.5
        expected = Codebook(torch.zeros(3, 5, 6), means, stds, shift).log_prob(z)
        assert torch.equal(distribution.log_prob(z), expected)


def test_a_density_of_inference_tensors_follows_a_change_in_place() -> None:
    distribution = in_order()
    with torch.inference_mode():
        z = torch.randn(3, 5, 4)
        before = distribution.log_prob(z)
        assert not torch.equal(distribution.log_prob(z.add_(1)), before)


@pytest.mark.compile
def test_a_last_result_is_the_same_when_compiled() -> None:
    def thrice(z: Tensor) -> Tensor:
        last: Last[Tensor] = Last()
        with torch.no_grad():
            constant = last(torch.exp, z)
        return constant + last(torch.exp, z) + last(torch.exp, z)

    z = torch.randn(3, requires_grad=True)
    compiled = torch.compile(thrice, backend="aot_eager", fullgraph=True)(z)
    assert compiled.requires_grad and torch.equal(compiled, thrice(z))
