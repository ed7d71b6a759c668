r"""The gradient of a fixed point, without the steps that lead to it."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from torch._compile import _disable_dynamo  # torch.compiler.disable would import the compiler, which takes a second

__all__ = ["implicit_step"]


@_disable_dynamo
def implicit_step(
    step: Callable[[Tensor], Tensor], point: Float[Tensor, "*batch n d"], terms: int
) -> Float[Tensor, "*batch n d"]:
    r"""One step from a fixed point, with the gradient of the fixed point as a function of what the step depends on.

    .. math::
        \mu = f(\mu, \theta) \quad\Rightarrow\quad
        \frac{d\mu}{d\theta} = (I - J)^{-1} \frac{\partial f}{\partial\theta}, \quad
        J = \frac{\partial f}{\partial\mu}, \quad (I - J)^{-1} = \sum_{t \ge 0} J^t

    The backward pass adds the first ``terms`` terms to the first of the series, which is what as many unrolled steps
    from the fixed point give, in the memory of two steps. It converges where the step is a contraction, as EM is near
    a maximum that it approaches. Gradients of gradients are not supported.

    Arguments:
        step: :math:`f`, differentiable in its argument and in what else it uses.
        point: :math:`\mu`, with shape :math:`(*, N, D)`.
        terms: The number of products with :math:`J`; 0 takes the fixed point as given.

    References:
        Deep Equilibrium Models (Bai et al., 2019). https://arxiv.org/abs/1909.01377

    Examples:
        The square root of 2, and its derivative:

        >>> x = torch.tensor([[2.0]], requires_grad=True)
        >>> root = implicit_step(lambda y: y + (x - y * y) / 4, torch.tensor([[2.0**0.5]]), terms=20)
        >>> round(torch.autograd.grad(root.sum(), x)[0].item(), 4), round(0.5 / 2.0**0.5, 4)
        (0.3536, 0.3536)
    """
    point = point.detach()
    moved = step(point)
    if not moved.requires_grad or terms == 0:
        return moved
    point = point.clone().requires_grad_()
    again = step(point)

    def with_series(gradient: Tensor) -> Tensor:
        total, term = gradient, gradient
        for _ in range(terms):
            (term,) = torch.autograd.grad(again, point, term, retain_graph=True)
            total = total + term
        return total

    moved.register_hook(with_series)
    return moved
