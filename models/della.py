"""DELLA: a hierarchy of latents, one for each layer, each fused into the values of that layer's attention."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, ClassVar, Literal, get_args

import pyro
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.distributions import Distribution

from .attention.editing import check_fraction
from .base import Model
from .batch import Batch
from .distributions.foreign import as_pyro
from .priors.checks import as_prior, check_prior
from .priors.latents import First, LinearGaussian
from .priors.roles import LatentPrior
from .transformer.config import TransformerConfig
from .transformer.fusion import Fusion, FusionKind
from .transformer.layer_encoder import LayerEncoder
from .transformer.memory import Context, Memory, check_context, check_pair
from .transformer.stacks import Decoder, check_condition
from .transformer.text_distribution import AutoregressiveText
from .utils.choices import check_choice
from .utils.numbers import check_at_least, declared_number

__all__ = ["DELLA", "Draw", "Recursion", "Structure"]

Structure = Literal["chain", "independent", "single"]
FirstPrior = Literal["standard", "learned"]
Draw = Callable[[str, int, Tensor], Tensor]  # from a latent's name, its index and a summary to its value


class DELLA(Model):
    r"""A Transformer decoder with a latent of its own for each layer.

    .. math:: p(x) = \int p(x \mid z_1, \dots, z_L) \prod_{l=1}^{L} p(z_l \mid z_1, \dots, z_{l-1}) \, dz

    The story of one text::

        s_1   = 0
        z_l   ~ LatentPrior(s_l, l)                      one latent for each layer l,
                                                         given those below
        s_l+1 = tanh(W_l s_l + V_l z_l + b_l)            a summary of the latents to l
        text  ~ AutoregressiveText(decoder, z_1 .. z_L)  z_l enters layer l; all layers
                                                         attend to the tokens before

    A text may have a condition c. Then the prior of each latent also reads that layer's encoding of c, and the decoder
    reads c before the text.

    Arguments:
        config: The network.
        latent_size: :math:`p`, the size of the latent of a layer.
        structure: ``chain``: each latent depends on those below; ``independent``: on none; ``single``: one latent for
            all layers, as large as those of all layers together.
        fusion: Where and how a latent enters: ``product``, ``collapsed``, ``add``, ``film`` or ``memory`` in its layer,
            ``embedding`` or ``softmax`` all together before the first layer or after the last.
        rank: Rank of the tensor product.
        first_layer: The lowest layer with a latent, from 1.
        last_layer: The highest one; by default the top.
        latent_prior: Prior of each latent; by default a Gaussian that is linear in the summary.
        first_prior: In that default, the prior of the lowest latent where there is no condition: ``standard`` normal or
            ``learned``.

    Raises:
        ValueError: If a size or a range of layers is invalid, an option has no such name, or the prior has another
            shape than its role requires.

    References:
        Fuse It More Deeply! A Variational Transformer with Layer-Wise Latent Variable Inference for Text Generation
        (Hu et al., 2022). https://arxiv.org/abs/2207.06130

    Examples:
        A model of texts. Free bits keep information in its latents, which collapse without:

        >>> corpus = pf.Corpus.from_texts([f"The number {n} is even." for n in range(0, 100, 2)], max_length=32)
        >>> model = pf.DELLA.for_corpus(corpus, latent_size=4, width=16, layers=2, heads=2)
        >>> run = pf.fit(model, pf.DELLAGuide(model), corpus, steps=2, free_bits=1.0)

        Of given sizes, without a corpus; it is a Pyro model like any other:

        >>> model = DELLA(TransformerConfig(vocabulary=20, max_length=8, width=16, layers=2, heads=2), latent_size=4)
        >>> trace = pyro.poutine.trace(model).get_trace(Batch.unobserved(3))
        >>> [(name, tuple(trace.nodes[name]["value"].shape)) for name in model.latents]
        [('z_1', (3, 4)), ('z_2', (3, 4))]
    """

    # A literal, which --help reads without an import; the blocks of Llama: benchmarks/trunks.py.
    network: ClassVar[dict[str, Any]] = {
        "norm": "rms",
        "activation": "swiglu",
        "bias": False,
        "positions": "rotary",
        "init_std": 0.02,
    }
    conditional: ClassVar[bool] = True

    def __init__(
        self,
        config: TransformerConfig,
        latent_size: int = 32,
        structure: Structure = "chain",
        fusion: FusionKind = "product",
        rank: int = 4,
        first_layer: int = 1,
        last_layer: int | None = None,
        latent_prior: LatentPrior | Distribution | Callable[..., Distribution] | None = None,
        first_prior: FirstPrior = "standard",
    ) -> None:
        super().__init__()
        self.config = config
        check_choice("structure", structure, get_args(Structure))
        check_choice("first_prior", first_prior, get_args(FirstPrior))
        self.structure = structure
        layers = _layers(first_layer, last_layer, config)
        check_at_least(1, latent_size=latent_size)
        single = structure == "single"
        self.latent_size = latent_size * len(layers) if single else latent_size
        self.layers = layers[-1:] if single else layers  # whose encoding of the text each latent depends on
        self.latents = tuple(f"z_{layer + 1}" for layer in self.layers) if not single else ("z",)
        self.decoder = Decoder(config, fusion=Fusion(fusion, self.latent_size, layers, rank, single))
        self.condition_encoder = LayerEncoder(self.decoder, self.layers) if config.max_condition_length else None
        links = range(len(self.layers) - 1 if structure == "chain" else 0)
        self.recursions = nn.ModuleList(Recursion(self.latent_size, first=link == 0) for link in links)
        if latent_prior is None:
            first: First = "linear" if self.condition_encoder is not None else first_prior
            latent_prior = LinearGaussian(self.latent_size, self.summary_size, len(self.layers), first)
        self.latent_prior = as_prior(latent_prior, LatentPrior, "latent_prior")
        for index in range(len(self.layers)):
            summary = torch.zeros(2, self.summary_size)
            check_prior(self.latent_prior, summary, index, event_shape=(self.latent_size,), name="latent_prior")

    @classmethod
    def check_new(cls, config: TransformerConfig, options: Mapping[str, Any]) -> None:
        first = options.get("first_prior", "standard")
        if first != "standard" and options.get("latent_prior") is not None:
            raise ValueError(
                f"first_prior is {first}, and there is a latent_prior beside it, which has a first of its own: give it "
                "there, or leave first_prior out."
            )

    @property
    def summary_size(self) -> int:
        """The size of the summary that a prior is called with: of the latents below, and of the condition."""
        below = self.latent_size if self.structure == "chain" else 0
        return below + (self.config.width if self.condition_encoder is not None else 0)

    @property
    def prior_sizes(self) -> dict[str, int]:
        return {"latent_size": self.latent_size, "summary_size": self.summary_size, "layers": len(self.latents)}

    def forward(self, batch: Batch) -> Int[Tensor, "*batch T"]:
        with self.texts(batch):
            latents = self.sample_hierarchy(
                batch, lambda name, index, summary: pyro.sample(name, self.prior(summary, index))
            )
            return pyro.sample("text", self.likelihood(self.context(latents, batch), batch.mask), obs=batch.tokens)

    def prior(self, summary: Float[Tensor, "*batch S"], index: int) -> Any:
        """The prior of a latent, from 0 at the lowest, given a summary of those below and of the condition."""
        return as_pyro(self.latent_prior(summary, index))

    def sample_hierarchy(self, batch: Batch, draw: Draw) -> Float[Tensor, "*batch K p"]:
        """The latents from the lowest one up: ancestral sampling, in the model and in its guide.

        Arguments:
            batch: Texts, observed or not, and their conditions.
            draw: A function from a latent's name, its index and the summary :math:`(*, S)` of its parents to its value.
        """
        conditions = self.read_condition(batch)
        below = self.zeros(len(batch.weight), self.latent_size if self.structure == "chain" else 0)
        latents = []
        for index, name in enumerate(self.latents):
            latents.append(draw(name, index, joined(below, conditions[index])))
            if index < len(self.recursions):
                below = self.recursions[index](below, latents[-1])
        return torch.stack(torch.broadcast_tensors(*latents), -2)

    def read_condition(self, batch: Batch) -> list[Float[Tensor, "B c"]]:
        """The condition's encoding for each layer with a latent; vectors with no entries where there is none.

        Raises:
            ValueError: If the model has conditions and the batch has none, or the other way round; or they are too
                long.
        """
        if (self.condition_encoder is None) != (batch.condition_tokens is None):
            ways = ("no condition, and one was given", "a condition, and none was given")
            raise ValueError(
                f"the model takes {ways[self.condition_encoder is not None]}: build the model for such texts."
            )
        if self.condition_encoder is None or batch.condition_tokens is None:
            return [self.zeros(len(batch.weight), 0)] * len(self.layers)
        check_condition(batch.condition_tokens, self.config)
        condition = Context(condition_tokens=batch.condition_tokens, condition_mask=batch.condition_mask)
        tokens = F.pad(batch.condition_tokens, (1, 0), value=self.config.bos)
        present = F.pad(condition.present, (1, 0), value=True)
        place = present.long().cumsum(-1) - 1  # right for padding on either side
        encodings: list[Tensor] = self.condition_encoder(tokens, present, place)
        return encodings

    def context(self, latents: Float[Tensor, "*batch K p"], batch: Batch) -> Context:
        """The latents of the texts of a batch, and their conditions, as the decoder reads them."""
        return Context(latents, batch.condition_tokens, batch.condition_mask)

    def zeros(self, *shape: int) -> Tensor:
        """Zeros on the device and in the dtype of the networks, which may be less precise than the latents."""
        return self.decoder.embedding.tokens.weight.new_zeros(shape)

    @property
    def dimensions(self) -> dict[str, tuple[str, ...]]:
        return {name: ("dimension",) for name in self.latents}

    def likelihood(self, memory: Context, mask: Bool[Tensor, "*batch T"] | None = None) -> AutoregressiveText:
        """p(text | latents, condition)."""
        return AutoregressiveText(self.decoder, memory, mask=mask)

    def check_memory(self, memory: Memory) -> Context:
        return check_context(memory, len(self.latents), self.latent_size)

    def interpolate(self, first: Memory, second: Memory, t: float) -> Context:
        r"""A straight line, :math:`(1 - t) z^{(1)} + t z^{(2)}`; the condition is the first text's."""
        check_fraction(t)
        first, second = self.check_memory(first), self.check_memory(second)
        check_pair(first, second)
        assert first.latents is not None and second.latents is not None
        return replace(first, latents=torch.lerp(first.latents, second.latents, t))


class Recursion(nn.Module):
    r"""The summary of the latents up to a layer, :math:`s_{l+1} = \tanh(W s_l + V z_l + b)`.

    Arguments:
        size: Size of a latent, and of the summary.
        first: Whether this is the first summary, with :math:`s_1 = 0`.

    References:
        Fuse It More Deeply! (Hu et al., 2022), Eq. 7, https://arxiv.org/abs/2207.06130
    """

    def __init__(self, size: int, first: bool) -> None:
        super().__init__()
        self.latent = nn.Linear(size, size)
        self.below = None if first else nn.Linear(size, size, bias=False)

    def forward(self, below: Float[Tensor, "*#batch p"], latent: Float[Tensor, "*#batch p"]) -> Tensor:
        score = self.latent(latent.to(self.latent.weight.dtype))
        return torch.tanh(score if self.below is None else score + self.below(below))


def joined(*parts: Float[Tensor, "*#batch _"]) -> Float[Tensor, "*batch q"]:
    """Vectors end to end, their leading dimensions broadcast.

    Examples:
        >>> joined(torch.zeros(5, 1, 2), torch.zeros(3, 4)).shape
        torch.Size([5, 3, 6])
    """
    batch = torch.broadcast_shapes(*(part.shape[:-1] for part in parts))
    return torch.cat([part.expand(*batch, part.shape[-1]) for part in parts], -1)


def _layers(first: int, last: int | None, config: TransformerConfig) -> tuple[int, ...]:
    """The layers with a latent, from 0."""
    first, last = declared_number("first_layer", first, int), declared_number("last_layer", last, int | None)
    top = config.layers if last is None else last
    if not 1 <= first <= top <= config.layers:
        raise ValueError(
            f"latents enter layers {first} to {top}: give first_layer and last_layer in this order, from 1 to the "
            f"{config.layers} layers that there are."
        )
    return tuple(range(first - 1, top))
