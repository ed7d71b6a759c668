r"""A PI controller of the logarithm of a positive number, the base of those of a KL weight and of a prior's delta."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

__all__ = ["PIController"]


class PIController(nn.Module):
    r"""A positive number :math:`v` that keeps a measured quantity :math:`x` at its target :math:`C`.

    .. math::

        e_t = \min\!\Big(\frac{\bar x_t}{C} - 1, \; 1\Big), \qquad
        \log v_{t+1} = \log v_0 + K_P \, e_t + K_I \sum_{s \le t} e_s

    with a moving average :math:`\bar x_t`. While the quantity is above its target, the number moves by a factor of at
    most :math:`\exp(K_I)` a step. The integral term finds the number that keeps the quantity at its target, the
    proportional term damps oscillations. Both gains are negative where the quantity grows with the number.

    The average starts at the target, so that nothing moves before the quantity has been measured. All state is in
    buffers: it is saved with a checkpoint, and no step waits for the device.

    Arguments:
        target: The target :math:`C`.
        start: :math:`\log v_0`.
        proportional: :math:`K_P`.
        integral: :math:`K_I`.
        memory: Decay of the moving average at a step.
        least: The smallest number.
        largest: The largest number.
    """

    average: Tensor
    log_value: Tensor

    def __init__(
        self,
        target: float,
        start: Float[Tensor, ""],
        proportional: float,
        integral: float,
        memory: float,
        least: float,
        largest: float,
    ) -> None:
        super().__init__()
        self.target, self.proportional, self.integral, self.memory = target, proportional, integral, memory
        self.range = math.log(least), math.log(largest)
        self.register_buffer("average", torch.tensor(float(target)))
        self.register_buffer("log_value", start)  # its integral part

    @property
    def error(self) -> Float[Tensor, ""]:
        """The relative distance of the average from the target, between -1 and 1."""
        return (self.average / self.target - 1).clamp(-1, 1)

    @property
    def value(self) -> Float[Tensor, ""]:
        """The number at the next step."""
        return (self.log_value + self.proportional * self.error).clamp(*self.range).exp()

    @torch.no_grad()
    def move(self, measured: Float[Tensor, ""]) -> None:
        """Update the number from the quantity at a step."""
        self.average.lerp_(measured.to(self.average.dtype), 1 - self.memory)
        self.log_value.add_(self.integral * self.error).clamp_(*self.range)  # clamped: no integral windup
