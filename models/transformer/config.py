"""Sizes and options of a Transformer."""

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Literal, get_args, get_origin

from ..attention.layers.gaussian_keys import Assignment, KeyDensity, KeyPrior, Precision
from ..batch import BOS, EOS, PAD
from ..heads import head_width
from ..utils.choices import check_choice
from ..utils.numbers import check_at_least, check_dropout, check_positive, declared_number

__all__ = ["Activation", "Norm", "Positions", "TransformerConfig"]

Norm = Literal["layer", "rms"]
Activation = Literal["gelu_tanh", "gelu", "relu", "swiglu"]
Positions = Literal["sinusoidal", "learned", "rotary"]
MOST_LAYERS = 10_000  # the configuration of a run may come from anyone, and building more would not end
_LEAST = {
    0: ("key_steps", "adapter_rank", "max_condition_length"),
    1: (
        "vocabulary",
        "max_length",
        "width",
        "layers",
        "heads",
        "hidden",
        "key_components",
        "key_distance",
        "key_value_heads",
        "head_size",
        "rotary_length",
    ),
}
_POSITIVE = (
    "norm_eps",
    "init_std",
    "rotary_base",
    "rotary_factor",
    "rotary_low",
    "rotary_high",
    "key_pseudo_counts",
    "key_tolerance",
)
_READ_BY = {  # the option that decides whether another has an effect, and its values with which it has; any but 0
    "rotary_base": ("positions", ("rotary",)),
    "rotary_factor": ("rotary_scaling", ("linear", "llama3")),
    "rotary_low": ("rotary_scaling", ("llama3",)),
    "rotary_high": ("rotary_scaling", ("llama3",)),
    "rotary_length": ("rotary_scaling", ("llama3",)),
    "key_pseudo_counts": ("key_steps", ()),
    "key_tolerance": ("key_steps", ()),
}


@dataclass(frozen=True)
class TransformerConfig:
    r"""Sizes and options of a Transformer.

    Arguments:
        vocabulary: The number of token ids :math:`V`, special tokens included.
        max_length: The longest text in tokens, its end included.
        width: The size :math:`P` of a hidden state.
        layers: The number of blocks.
        heads: The number of attention heads; it divides ``width``.
        hidden: The size of the feed-forward layer (default: ``4 * width``; with ``swiglu``, which has three matrices
            in place of two, 8/3 of the width: as many weights).
        dropout: Probability of dropping an activation in training.
        bias: Whether linear layers and layer norms have biases.
        qkv_bias: Whether queries, keys and values have biases (default: as ``bias`` says). Qwen 2 has these only.
        norm: ``"layer"``: layer norm; or ``"rms"``: ``w * x / sqrt(mean(x^2) + norm_eps)``, as in Llama.
        norm_eps: The constant that norms add to a variance.
        activation: Activation of the feed-forward layers; ``"swiglu"`` is ``silu(G x) * (W x)``, with two matrices.
        positions: ``"sinusoidal"``: fixed, added to embeddings that are scaled by ``sqrt(width)``;
            ``"learned"``, as in GPT-2; or ``"rotary"``: queries and keys are rotated, as in Llama.
        rotary_base: Rotary positions: the base of the wavelengths: that of pair ``i`` of ``d`` dimensions is
            ``2 pi base^(2i / d)`` tokens.
        rotary_scaling: Rotary positions of a model that was trained on shorter texts first: all wavelengths are
            multiplied by ``rotary_factor`` (``"linear"``), or only the long ones, as in Llama 3 (``"llama3"``).
        rotary_factor: The factor of the scaling.
        rotary_low: Llama 3's scaling: wavelengths above ``rotary_length / rotary_low`` take the whole factor.
        rotary_high: Llama 3's scaling: wavelengths below ``rotary_length / rotary_high`` take none.
        rotary_length: Llama 3's scaling: the length in tokens of the first texts.
        key_value_heads: The number of heads of keys and values, each shared by a group of query heads (default:
            ``heads``).
        head_size: The number of dimensions of a head (default: ``width / heads``).
        query_key_norm: Whether each head norms its queries and keys (RMS), as in Qwen 3.
        tied: Whether the output layer of a decoder shares its token embedding.
        adapter_rank: The rank of an adapter beside the matrix of every linear layer (LoRA); 0 is no adapters.
        init_std: Standard deviation of the initial weights (default: ``1 / sqrt(width)``, which preserves the scale of
            activations). GPT-2 has 0.02.
        word_dropout: Probability that padding replaces an input token of a decoder in training.
        max_condition_length: The longest condition in tokens, which is put before a text; 0 for no condition.
        attention: Self-attention: ``"softmax"``, or ``"probabilistic"``, which starts as softmax attention and learns
            precisions and priors of the keys.
        key_precision: Probabilistic attention: one precision for each head (``"shared"``), one matrix for each head
            (``"full"``), or one precision for each key (``"key"``) or each of its dimensions (``"diagonal"``).
        key_prior: Probabilistic attention: long keys are favored as in softmax attention (``"magnitude"``), to a
            learned degree (``"gated"``), or with a prior for each key besides (``"learned"``).
        key_components: Probabilistic attention: the number of Gaussians in each key.
        null_component: Probabilistic attention: whether a query may attend to nothing.
        key_steps: Probabilistic attention: the largest number of EM steps by which keys adapt to the queries.
        key_pseudo_counts: Probabilistic attention: the number of queries that a key is worth when it adapts.
        key_tolerance: Probabilistic attention: keys that adapt stay after a step that moves none by more than so many
            standard deviations (default: after ``key_steps``).
        key_density: Probabilistic attention: keys are Gaussians (``"gaussian"``) or Student's t (``"student"``), with
            learned tails.
        key_assignment: Probabilistic attention: whether all of a key's Gaussians count for a query (``"soft"``) or only
            the most probable (``"hard"``).
        key_distance: Probabilistic attention: the largest distance of two tokens that has learned vectors of its own
            for queries, keys and values (default: relative positions have none).
        pad: Id of padding.
        bos: Id of the beginning-of-text token.
        eos: Id of the end-of-text token.

    Raises:
        ValueError: If a field is out of range or two do not go together.

    Examples:
        >>> TransformerConfig(vocabulary=100, max_length=16, width=30, heads=4)
        Traceback (most recent call last):
        ValueError: width is 30, which is no multiple of heads = 4: choose another width or heads.
    """

    vocabulary: int
    max_length: int
    width: int = 128
    layers: int = 2
    heads: int = 4
    hidden: int | None = None
    dropout: float = 0.0
    bias: bool = True
    qkv_bias: bool | None = None
    norm: Norm = "layer"
    norm_eps: float = 1e-5
    activation: Activation = "gelu_tanh"
    positions: Positions = "sinusoidal"
    rotary_base: float = 10_000.0
    rotary_scaling: Literal["none", "linear", "llama3"] = "none"
    rotary_factor: float = 1.0
    rotary_low: float = 1.0
    rotary_high: float = 4.0
    rotary_length: int = 8192
    key_value_heads: int | None = None
    head_size: int | None = None
    query_key_norm: bool = False
    tied: bool = True
    adapter_rank: int = 0
    init_std: float | None = None
    word_dropout: float = 0.0
    max_condition_length: int = 0
    attention: Literal["softmax", "probabilistic"] = "softmax"
    key_precision: Precision = "key"
    key_prior: KeyPrior = "gated"
    key_components: int = 1
    null_component: bool = False
    key_steps: int = 0
    key_pseudo_counts: float = 1.0
    key_tolerance: float | None = None
    key_density: KeyDensity = "gaussian"
    key_assignment: Assignment = "soft"
    key_distance: int | None = None
    pad: int = PAD
    bos: int = BOS
    eos: int = EOS

    def __post_init__(self) -> None:
        for field in fields(self):
            object.__setattr__(self, field.name, declared_number(field.name, getattr(self, field.name), field.type))
        for least, names in _LEAST.items():
            sizes = {name: getattr(self, name) for name in names}
            check_at_least(least, **{name: size for name, size in sizes.items() if size is not None})
        if self.layers > MOST_LAYERS:
            raise ValueError(f"layers is {self.layers}: give at most {MOST_LAYERS}.")
        if self.head_size is None:
            head_width(self.width, self.heads)  # raises unless heads divide the width
        if self.heads % self.value_heads:
            raise ValueError(
                f"key_value_heads is {self.key_value_heads}, which does not divide heads = {self.heads}: choose a "
                "divisor."
            )
        check_dropout(dropout=self.dropout, word_dropout=self.word_dropout)
        for name in _POSITIVE:
            value = getattr(self, name)
            if value is not None:
                check_positive(**{name: value})
        for field in fields(self):
            if get_origin(field.type) is Literal:
                check_choice(field.name, getattr(self, field.name), get_args(field.type))
        if self.positions == "sinusoidal" and self.width % 2:
            raise ValueError(f"width is {self.width}: give an even one, for sinusoidal positions.")
        self._check_rotary()
        self._check_probabilistic()
        for name in ("pad", "bos", "eos"):
            if not 0 <= getattr(self, name) < self.vocabulary:
                raise ValueError(
                    f"{name} is {getattr(self, name)}, outside of a vocabulary of {self.vocabulary}: give an id."
                )
        if self.pad == self.eos:
            raise ValueError(f"pad and eos are both {self.pad}: give padding and the end of a text ids of their own.")

    def check_read(self, given: Iterable[str]) -> None:
        """Raises a ValueError if an option has no effect beside the others; saved models may have one.

        Arguments:
            given: The names of the options that were given.

        Examples:
            >>> config = TransformerConfig(vocabulary=20, max_length=8, positions="learned", rotary_base=5.0)
            >>> config.check_read(["rotary_base"])
            Traceback (most recent call last):
            ...
            ValueError: rotary_base is 5.0, which has an effect only with positions rotary, and positions is learned...
        """
        defaults = {field.name: field.default for field in fields(self)}
        for name in [name for name in given if name in _READ_BY and getattr(self, name) != defaults[name]]:
            reader, values = _READ_BY[name]
            actual = getattr(self, reader)
            if actual not in values if values else not actual:
                raise ValueError(
                    f"{name} is {getattr(self, name)}, which has an effect only with {reader} "
                    f"{' or '.join(values) or 'above 0'}, and {reader} is {actual}: change {reader}, or leave {name} "
                    "out."
                )
        if "rotary_scaling" in given and self.rotary_scaling != "none" and self.rotary_factor == 1:
            raise ValueError(
                f"rotary_scaling is {self.rotary_scaling}, and its rotary_factor is 1, which scales nothing: give "
                "rotary_factor, or leave rotary_scaling out."
            )

    @property
    def feed_forward(self) -> int:
        """The size of the feed-forward layer."""
        if self.hidden is not None:
            return self.hidden
        return 4 * self.width if self.activation != "swiglu" else -(-8 * self.width // 24) * 8  # a multiple of 8

    @property
    def head_width(self) -> int:
        """The number of dimensions of a head."""
        return self.width // self.heads if self.head_size is None else self.head_size

    @property
    def value_heads(self) -> int:
        """The number of heads of keys and values."""
        return self.heads if self.key_value_heads is None else self.key_value_heads

    @property
    def value_width(self) -> int:
        """The size of the values, or keys, of all heads."""
        return self.value_heads * self.head_width

    @property
    def only_softmax(self) -> str | None:
        """The name of an option that only softmax attention has; None if there is none."""
        found = {"positions": self.positions == "rotary"}
        found |= {name: getattr(self, name) is not None for name in ("key_value_heads", "head_size", "qkv_bias")}
        found |= {name: bool(getattr(self, name)) for name in ("query_key_norm", "adapter_rank")}
        return next((name for name, present in found.items() if present), None)

    def _check_rotary(self) -> None:
        if self.positions != "rotary":
            if self.rotary_scaling != "none":
                raise ValueError(
                    f"rotary_scaling is {self.rotary_scaling}, but positions are {self.positions}: choose positions "
                    "rotary, or leave it out."
                )
            return
        if self.head_width % 2:
            raise ValueError(
                f"a head has {self.head_width} dimensions, and rotary positions need an even number: choose another "
                "head_size, or another width or heads."
            )
        if self.rotary_scaling == "llama3" and self.rotary_low >= self.rotary_high:
            raise ValueError(
                f"rotary_low is {self.rotary_low} and rotary_high {self.rotary_high}: give a larger second one."
            )

    def _check_probabilistic(self) -> None:
        """Raises a ValueError for options that only the other kind of attention has, or that do not go together."""
        if self.attention == "softmax":
            for field in fields(self):
                own = field.name.startswith("key_") and field.name != "key_value_heads"
                if (own or field.name == "null_component") and getattr(self, field.name) != field.default:
                    raise ValueError(
                        f"{field.name} is {getattr(self, field.name)}, which only probabilistic attention has, and "
                        "attention is softmax: choose attention probabilistic, or leave it out."
                    )
            return
        if self.key_steps and self.dropout:
            raise ValueError(
                f"key_steps is {self.key_steps} and dropout is {self.dropout}, but keys that adapt need dropout 0: "
                "leave one of them out."
            )
        if name := self.only_softmax:
            raise ValueError(
                f"{name} is {getattr(self, name)}, which only softmax attention has, and attention is "
                f"{self.attention}: leave it out, or choose attention softmax."
            )
