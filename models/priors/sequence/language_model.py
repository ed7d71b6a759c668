"""A prior of the next vector that is a trained language model, whose tokens are Gaussians."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.distributions import Distribution

from ...transformer.config import TransformerConfig
from ...transformer.place_reader import place_codes, place_width
from ...transformer.stacks import Decoder
from ...utils.precision import at_least_float32
from ...utils.tensor_checks import is_known
from ..checks import check_prior
from ..latents import unbounded
from ..roles import VectorPrior
from .codebook import Codebook
from .gaussian_tokens import GaussianTokenPrior, check_gaussians, narrow_first
from .joint import InOrder, with_own

__all__ = ["LanguageModelVectorPrior"]


class LanguageModelVectorPrior(GaussianTokenPrior):
    r"""A language model that reads and writes vectors: its weights may be those of a trained one.

    .. math:: p(z \mid n) = \prod_{i \le \kappa} p_0(z_i) \prod_{i > \kappa}
        \sum_{v=1}^V p_\text{LM}(v \mid x_{<i}) \, \mathcal N(z_i; \mu_v + \nu_i, \operatorname{diag} \sigma^2),
        \qquad x_j = \sum_{v=1}^V p(v \mid z_j) \, e_v, \quad
        p(v \mid z_j) \propto \mathcal N(z_j; \mu_v + \nu_j, \operatorname{diag} \sigma^2)

    Each vector is read as the posterior mean of its token's embedding :math:`e_v`, which is attention over the
    vocabulary. Where the Gaussians of tokens do not overlap, that is the embedding of one token, and the divergence of
    a posterior at the Gaussians of a text's tokens from this prior is exactly the loss of the language model. So a
    model with latents can start where a language model ended: its rate is that loss, its reconstructions
    can be exact, and samples from its prior are those of the language model.

    The last dimensions of a vector are the code of its place and of nothing else, so that a decoder finds the vector of
    a place by attention (:class:`~pyroformer.models.transformer.place_reader.PlaceReader`).

    A model that starts from a backbone (``for_corpus(backbone=...)``) copies its weights into the language model of
    this prior too, and starts the means at its embedding, scaled to variance 1.
    :class:`~pyroformer.priors.TokenVectorPrior` is the same idea for training from nothing.

    Arguments:
        config: The language model, whose width is that of the vectors, :math:`P`.
        variance: :math:`\sigma^2` at the start, in every dimension, from 0.01 to 100; that of the means is 1.
        samples_per_component: :math:`\kappa`, the number of the prior's own components; 0 or 1.
        first: Prior :math:`p_0` of the prior's own component; by default as that of
            :class:`~pyroformer.priors.TokenVectorPrior`.
        eos: The token that ends texts, if the vectors tell where.

    Raises:
        ValueError: If ``variance``, ``eos`` or ``samples_per_component`` is out of range, or
            ``first`` has another width.

    References:
        TarFlowLM (2025), https://arxiv.org/abs/2507.00425, for an autoregressive mixture over shared Gaussians, at
        whose modes a model of vectors is one of tokens.

    Examples:
        >>> config = TransformerConfig(vocabulary=30, max_length=8, width=16, layers=1, heads=2)
        >>> prior = LanguageModelVectorPrior(config)
        >>> distribution = prior(torch.tensor([[True, True, True], [True, True, False]]))
        >>> distribution.event_shape, distribution.log_prob(distribution.sample()).shape
        (torch.Size([3, 16]), torch.Size([2]))
    """

    def __init__(
        self,
        config: TransformerConfig,
        variance: float = 0.015,
        samples_per_component: int = 1,
        first: VectorPrior | None = None,
        eos: int | None = None,
    ) -> None:
        super().__init__()
        check_gaussians(config.vocabulary, variance, eos)
        if samples_per_component not in (0, 1):
            raise ValueError(
                f"samples_per_component {samples_per_component}: a language model has one vector for each token, so it "
                "must be 1, or 0 where no component is the prior's own."
            )
        self.config, self.width, self.samples_per_component, self.eos = config, config.width, samples_per_component, eos
        self.decoder = Decoder(config)
        self.code_width = place_width(config.width)
        self.mean = nn.Parameter(torch.empty(config.vocabulary, config.width - self.code_width))
        self.log_variance = nn.Parameter(unbounded(torch.full((config.width,), variance)))
        self.first = narrow_first(config.width, variance) if first is None else first
        check_prior(self.first, event_shape=(config.width,), name="first")
        with torch.no_grad():
            self.start_at_embedding(self.decoder.embedding.tokens.weight)

    def means(self) -> Float[Tensor, "v p"]:
        return F.pad(self.nonzero_means(), (0, self.code_width))

    def nonzero_means(self) -> Float[Tensor, "v q"]:
        return at_least_float32(self.mean)

    def places(self, place: Int[Tensor, " m"]) -> Float[Tensor, "m p"]:
        codes = place_codes(place, self.code_width, self.config.max_length)
        return F.pad(codes, (self.mean.shape[-1], 0))

    def start_at_embedding(self, embedding: Float[Tensor, "v p"]) -> None:
        self.mean.copy_((embedding / embedding.square().mean().sqrt())[:, : self.mean.shape[-1]])

    def forward(self, mask: Bool[Tensor, "*batch n"]) -> Distribution:
        tokens = InOrder(self.conditional, self.draw, mask[..., self.samples_per_component :], self.width)
        return with_own(self, self.samples_per_component, mask, tokens)

    def conditional(self, vectors: Float[Tensor, "*batch m p"], length: Int[Tensor, "*#batch"]) -> Codebook:
        """The distribution of each vector given those before it; the length says which of them matter."""
        place = torch.arange(vectors.shape[-2], device=vectors.device)
        codebook = self.codebook(place)
        read = codebook.log_densities(vectors)[..., :-1, :].softmax(-1)
        matters = (place[:-1] < length[..., None]).expand(read.shape[:-1])
        if _are_certain(read, matters):
            return codebook.weighted(self._of_tokens(read.argmax(-1)))
        begin = self._begin.expand(*vectors.shape[:-2], 1, -1)
        return codebook.weighted(self._logits(torch.cat([begin, self._embedded(read)], -2)))

    def _of_tokens(self, tokens: Int[Tensor, "*batch t"]) -> Float[Tensor, "*batch m v"]:
        """Logits after the beginning of a text and after each of these tokens; equal texts are read once."""
        if not tokens.shape[-1]:  # the beginning alone, of which torch makes no table of distinct rows
            return self._logits(self._begin[None]).expand(*tokens.shape[:-1], -1, -1)
        distinct, which = tokens.reshape(-1, tokens.shape[-1]).unique(dim=0, return_inverse=True)
        embedding = self.decoder.embedding.tokens.weight
        x = torch.cat([self._begin.expand(len(distinct), 1, -1), F.embedding(distinct, embedding)], -2)
        logits = self._logits(x)
        if len(distinct) == 1:
            return logits[0].expand(*tokens.shape[:-1], -1, -1)
        return logits.index_select(0, which).reshape(*tokens.shape[:-1], *logits.shape[1:])

    @torch.no_grad()
    def draw(self, length: Int[Tensor, "*batch"], rows: int) -> Float[Tensor, "*batch m p"]:
        """The first ``rows`` of ``length`` vectors, one after the other, with a cache of keys and values."""
        batch = length.numel()
        cache = self.decoder.cache((batch,), rows)
        drawn: list[Tensor] = []
        x = self._begin.expand(batch, 1, -1)
        for i in range(rows):
            place = torch.full((1,), i, device=length.device)
            drawn.append(self.of_logits(self._readout(self.decoder.step_vectors(x, cache)), place).sample())
            x = self.read(drawn[-1], place)
        return torch.cat(drawn, -2).reshape(*length.shape, rows, self.width)

    def read(self, vectors: Float[Tensor, "*batch m p"], place: Int[Tensor, " m"]) -> Float[Tensor, "*batch m p"]:
        r"""The input of the language model at each place, :math:`x_j`."""
        return self._embedded(self.codebook(place).log_densities(vectors).softmax(-1))

    def _embedded(self, read: Float[Tensor, "*batch m v"]) -> Float[Tensor, "*batch m p"]:
        """The mean embedding under probabilities of tokens."""
        embedding = self.decoder.embedding.tokens.weight
        return read.to(embedding.dtype) @ embedding

    @property
    def _begin(self) -> Float[Tensor, " p"]:
        """The embedding of the token before a text."""
        return self.decoder.embedding.tokens.weight[self.config.bos]

    def _logits(self, x: Float[Tensor, "*batch m p"]) -> Float[Tensor, "*batch m v"]:
        hidden = self.decoder.read(x.reshape(-1, *x.shape[-2:])).reshape(x.shape)
        return self._readout(hidden)

    def _readout(self, hidden: Float[Tensor, "*batch m p"]) -> Float[Tensor, "*batch m v"]:
        weight, bias = self.decoder.readout
        logits = at_least_float32(hidden) @ at_least_float32(weight).T
        return logits if bias is None else logits + at_least_float32(bias)

    def extra_repr(self) -> str:
        return f"width={self.width}, vocabulary={len(self.mean)}, samples_per_component={self.samples_per_component}"


def _are_certain(probabilities: Float[Tensor, "*batch v"], matters: Bool[Tensor, "*batch"]) -> bool:
    """Whether every distribution that is not masked is a single token, of probability exactly 1.

    Its gradient is zero then. A training step does not ask where the answer would wait for the device.
    """
    if not is_known(probabilities, wait=not torch.is_grad_enabled()):
        return False
    tokens = probabilities.count_nonzero(-1)
    single = (tokens == 1) & (probabilities.amax(-1) == 1)
    return bool((single | ~matters).all())
