r"""Evidence for the token at a place from the vector at that place, by Bayes' rule, at the output of a decoder."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from ..attention.mixture import Mixture
from ..utils.precision import at_least_float32, without_autocast

__all__ = ["PlaceReader", "place_codes", "place_width"]

PLACES = 3.0  # scale of the codes: places then stand out from tokens
CROWDED = 5.0  # the ratio of wavelengths from which on places are closer than 6 nats
APART = 9.0  # nats between such places once their codes are larger: each finds its own vector with 999 in 1000
NULL = -12.0  # nats that a vector may be from a place before it is taken for none; a neighbor of wide ones is 30 to 80
NATS = 100.0  # that tell two unrelated tokens apart at the start
MOST = 32  # dimensions of a place


class PlaceReader(nn.Module):
    r"""Adds the log likelihood of the vector at a token's place to the logits of the token.

    .. math::
        p(x_t = v \mid x_{<t}, F) \propto p_\text{LM}(v \mid x_{<t}) \, \exp \left(
            \frac{r_t \cdot c_v - s_t |c_v|^2 / 2}{\tau^2} \right), \qquad
        r_t = \sum_i w_{ti} \, z_i, \quad s_t = \sum_i w_{ti}, \quad
        w_{ti} \propto \pi_i \, \mathcal N(\nu_t; \bar z_i, I)

    A decoder is a prior of each token, and a vector a noisy observation of the token's own, :math:`c_v`: what is added
    to the logits is its log density, where a vector was found. Which vector it is, attention says: the query is the
    code of the place, :math:`\nu_t`, and the last dimensions of a vector, :math:`\bar z_i`, are its key. A null
    component of weight :math:`1 - s_t` takes the query where no vector is near, so that nothing is said then.

    Arguments:
        vocabulary: The number of tokens.
        width: The size of a vector, codes of places included.
        max_length: The number of places.
        weighted: Whether the weights of the mixture count, :math:`\pi_i`; otherwise all its vectors are equal.

    Examples:
        >>> reader = PlaceReader(vocabulary=30, width=16, max_length=8)
        >>> mixture = Mixture(torch.zeros(2, 5), torch.randn(2, 5, 16))
        >>> reader(torch.arange(8).expand(2, 8), mixture).shape, reader.columns().shape
        (torch.Size([2, 8, 13]), torch.Size([30, 13]))
    """

    def __init__(self, vocabulary: int, width: int, max_length: int, weighted: bool = True) -> None:
        super().__init__()
        self.max_length, self.weighted, self.code_width = max_length, weighted, place_width(width)
        size = width - self.code_width
        self.codebook = nn.Parameter(torch.randn(vocabulary, size))
        self.log_variance = nn.Parameter(torch.tensor(math.log(size / NATS)))

    def forward(self, place: Int[Tensor, "B T"], memory: Mixture) -> Float[Tensor, "B T c"]:
        r"""Factors of :meth:`columns`: :math:`r_t / \tau^2` and :math:`s_t / \tau^2`.

        Arguments:
            place: The place of each token, from 0.
            memory: The mixture of each text.
        """
        content = at_least_float32(memory.means)[..., : -self.code_width]
        if memory.mask is not None:
            content = torch.where(memory.mask[..., None], content, 0)
        weights = self.weights(place, memory)
        precision = (-at_least_float32(self.log_variance)).exp()
        with without_autocast(content.device):  # a hundred nats are rounded by their 256th in bfloat16
            return precision * torch.cat([weights @ content, weights.sum(-1, keepdim=True)], -1)

    def weights(self, place: Int[Tensor, "B T"], memory: Mixture) -> Float[Tensor, "B T N"]:
        """The attention of each place to each vector, :math:`w_{ti}`; the null component has what is missing to 1."""
        keys = at_least_float32(memory.means)[..., -self.code_width :]
        query = place_codes(place, self.code_width, self.max_length).to(keys.dtype)
        distance = (query[..., None, :] - keys[..., None, :, :]).square().sum(-1)
        logits = -0.5 * distance
        if self.weighted:
            logits = logits + memory.log_weights.to(keys.dtype)[..., None, :]
        if memory.mask is not None:
            logits = logits.masked_fill(~memory.mask[..., None, :], -torch.inf)
        return F.pad(logits, (1, 0), value=NULL).softmax(-1)[..., 1:]

    def columns(self) -> Float[Tensor, "V c"]:
        r"""The columns that extend the output layer, for each token: :math:`c_v` and :math:`-|c_v|^2 / 2`."""
        codebook = at_least_float32(self.codebook)
        return torch.cat([codebook, -0.5 * codebook.square().sum(-1, keepdim=True)], -1)

    @torch.no_grad()
    def start_at(self, means: Float[Tensor, "V p"]) -> None:
        """Starts at the vectors of the tokens."""
        self.codebook.copy_(means[:, : self.codebook.shape[-1]])

    def extra_repr(self) -> str:
        return f"code_width={self.code_width}, max_length={self.max_length}, weighted={self.weighted}"


def place_width(width: int) -> int:
    """The number of dimensions of a vector that encode its place: even, at most a quarter of all."""
    return max(2, min(MOST, width // 4 // 2 * 2))


def place_codes(place: Int[Tensor, "*batch"], width: int, max_length: int) -> Float[Tensor, "*batch width"]:
    r"""Codes of places, :math:`\nu_t`: sines and cosines of wavelengths from 2 tokens to twice ``max_length``.

    In few dimensions, where a wavelength is many times the next, places that are a wavelength apart would be all but
    one: the shortest is longer then, so that all are in one ratio, and the scale larger. Every other place is about
    ``APART`` nats away at least.
    """
    waves, longest = width // 2, 2 * max(2, max_length)
    shortest, scale = 2.0, PLACES
    if (longest / 2) ** (1 / max(1, waves - 1)) > CROWDED:
        shortest = longest ** (1 / waves)
        scale = max(PLACES, math.sqrt(APART / (1 - math.cos(2 * math.pi / shortest))))
    rates = torch.linspace(math.log(2 / shortest), -math.log(longest / 2), waves, device=place.device).exp() * math.pi
    angles = place[..., None] * rates
    return scale * torch.cat([angles.sin(), angles.cos()], -1)
