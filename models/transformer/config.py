"""Sizes and options of a Transformer."""

from dataclasses import dataclass, fields
from typing import Literal, get_args, get_origin

from ..batch import BOS, EOS, PAD
from ..choices import check_choice
from ..heads import head_width
from ..numbers import declared_number

__all__ = ["TransformerConfig"]
MOST_LAYERS = 10_000


@dataclass(frozen=True)
class TransformerConfig:
    r"""Sizes and options of a Transformer.

    Arguments:
        vocabulary: The number of token ids :math:`V`, special tokens included.
        max_length: The longest text in tokens, its end included.
        width: The size :math:`P` of a hidden state.
        layers: The number of blocks.
        heads: The number of attention heads; it divides ``width``.
        hidden: The size of the feed-forward layer; None is ``4 * width``.
        dropout: Probability of dropping an activation in training.
        bias: Whether linear layers and norms have biases.
        norm_eps: The constant that layer norms add to a variance.
        activation: Activation of the feed-forward layers.
        positions: ``"sinusoidal"``: fixed, added to embeddings that are scaled by :math:`\sqrt P`; or ``"learned"``,
            as in GPT-2.
        tied: Whether the output layer of a decoder shares its token embedding.
        init_std: Standard deviation of the initial weights; None is :math:`1 / \sqrt P`, which preserves
            the scale of activations. GPT-2 has 0.02.
        word_dropout: Probability that padding replaces an input token of a decoder in training.
        max_condition_length: The longest condition in tokens, which is put before a text; 0 for no condition.
        attention: Self-attention: ``"softmax"``, or ``"probabilistic"``, which starts as softmax attention and learns
            precisions and priors of the keys.
        key_precision: Probabilistic attention: one precision for each head (``"shared"``), each key (``"unit"``) or
            each of its dimensions (``"diagonal"``).
        key_prior: Probabilistic attention: long keys are favored as in softmax attention (``"magnitude"``), to a
            learned degree (``"gated"``), or with a prior for each key besides (``"learned"``).
        key_components: Probabilistic attention: the number of Gaussians in each key.
        null_component: Probabilistic attention: whether a query may attend to nothing.
        key_steps: Probabilistic attention: the number of EM steps by which keys adapt to the queries.
        pad: Id of padding.
        bos: Id of the beginning-of-text token.
        eos: Id of the end-of-text token.

    Raises:
        ValueError: If a field is out of range or two do not go together.

    Examples:
        >>> TransformerConfig(vocabulary=100, max_length=16, width=30, heads=4)
        Traceback (most recent call last):
        ValueError: width is 30, which is not a multiple of heads = 4: choose a width that is
    """

    vocabulary: int
    max_length: int
    width: int = 128
    layers: int = 2
    heads: int = 4
    hidden: int | None = None
    dropout: float = 0.0
    bias: bool = True
    norm_eps: float = 1e-5
    activation: Literal["gelu_tanh", "gelu", "relu"] = "gelu_tanh"
    positions: Literal["sinusoidal", "learned"] = "sinusoidal"
    tied: bool = True
    init_std: float | None = None
    word_dropout: float = 0.0
    max_condition_length: int = 0
    attention: Literal["softmax", "probabilistic"] = "softmax"
    key_precision: Literal["shared", "unit", "diagonal"] = "unit"
    key_prior: Literal["magnitude", "gated", "learned"] = "gated"
    key_components: int = 1
    null_component: bool = False
    key_steps: int = 0
    pad: int = PAD
    bos: int = BOS
    eos: int = EOS

    def __post_init__(self) -> None:
        for field in fields(self):
            object.__setattr__(self, field.name, declared_number(field.name, getattr(self, field.name), field.type))
        for name in ("vocabulary", "max_length", "width", "layers", "heads", "hidden", "key_components"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}; it must be at least 1")
        if (
            self.layers > MOST_LAYERS
        ):  # the configuration of a run may come from anyone, and building them would not end
            raise ValueError(f"layers is {self.layers}: give at most {MOST_LAYERS}")
        if self.key_steps < 0:
            raise ValueError(f"key_steps is {self.key_steps}; it must be at least 0, which leaves keys as they are")
        head_width(self.width, self.heads)  # raises unless heads divide the width
        if self.max_condition_length < 0:
            raise ValueError(
                f"max_condition_length is {self.max_condition_length}; it must be at least 0, where 0 is none"
            )
        for name in ("dropout", "word_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 0 and below 1")
        for name in ("norm_eps", "init_std"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"{name} is {value}; it must be positive")
        for field in fields(self):
            if get_origin(field.type) is Literal:
                check_choice(field.name, getattr(self, field.name), get_args(field.type))
        if self.positions == "sinusoidal" and self.width % 2:
            raise ValueError(f"width is {self.width}; sinusoidal positions need an even width")
        for name in ("pad", "bos", "eos"):
            if not 0 <= getattr(self, name) < self.vocabulary:
                raise ValueError(f"{name} is {getattr(self, name)}, outside of a vocabulary of {self.vocabulary}")
        if self.pad == self.eos:
            raise ValueError(f"pad and eos are both {self.pad}; padding and the end of a text need ids of their own")

    @property
    def feed_forward(self) -> int:
        """The size of the feed-forward layer."""
        return 4 * self.width if self.hidden is None else self.hidden
