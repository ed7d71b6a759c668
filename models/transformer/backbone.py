r"""A pretrained backbone: weights and options of a decoder, from which others of the same sizes start."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from .config import TransformerConfig
from .stacks import Decoder

__all__ = ["ADAPTER_RANK", "Backbone", "Train"]

Train = Literal["all", "latents", "lora"]
ADAPTER_RANK = 8  # of train="lora", unless another is given

_TOKEN_ROWS = ("embedding.tokens.weight", "head.weight", "head.bias")  # these have a row for each token
_ARCHITECTURE = (
    "width",
    "layers",
    "heads",
    "key_value_heads",
    "head_size",
    "query_key_norm",
    "bias",
    "qkv_bias",
    "norm",
    "norm_eps",
    "activation",
    "positions",
    "rotary_base",
    "rotary_scaling",
    "rotary_factor",
    "rotary_low",
    "rotary_high",
    "rotary_length",
    "tied",
)


@dataclass(frozen=True, repr=False)
class Backbone:
    r"""A trained decoder as its options and weights.

    :meth:`load_into` copies the weights by name into another decoder with the same architecture. Parameters that only
    the other one has, such as cross-attention to a memory or the precisions of probabilistic attention, keep their
    initial values.

    Arguments:
        name: Its name in messages.
        config: Its sizes and options; ``max_length`` is the number of its positions.
        weights: All weights of a :class:`~.stacks.Decoder` with this configuration, by name.

    Raises:
        ValueError: If a weight is missing, unknown, or of another shape.

    Examples:
        >>> config = TransformerConfig(vocabulary=20, max_length=12, width=16, layers=1, positions="learned")
        >>> trained = Decoder(config)
        >>> backbone = Backbone("trained", config, trained.state_dict())
        >>> decoder = Decoder(TransformerConfig(vocabulary=20, max_length=8, **backbone.sizes), cross_attention=True)
        >>> backbone.load_into(decoder)[0]
        'blocks.0.cross_norm.weight'
        >>> torch.equal(decoder.norm.weight, trained.norm.weight)
        True
    """

    name: str
    config: TransformerConfig
    weights: Mapping[str, Tensor]

    def __post_init__(self) -> None:
        shapes = _shapes(self.config)
        missing = [name for name in shapes if name not in self.weights]
        if missing:
            raise ValueError(f"{len(missing)} of the decoder's weights are missing, such as {missing[0]}.")
        _check_shapes(self.weights, shapes)

    def summary(self) -> str:
        """Its name and sizes in one line."""
        config = self.config
        sizes = f"width {config.width}, {config.layers} layers, {config.heads} heads, {config.vocabulary:,} tokens"
        return f"{self.name}: {sizes}, max_length up to {config.max_length:,}"

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.summary()})"

    @property
    def sizes(self) -> dict[str, Any]:
        """Options of a decoder with this architecture, without its vocabulary and ``max_length``."""
        return {
            **{name: getattr(self.config, name) for name in _ARCHITECTURE},
            "hidden": self.config.feed_forward,
            "dropout": self.config.dropout,
        }

    def check(self, **options: Any) -> None:
        """Raises unless a decoder with these options can start from this backbone.

        Arguments:
            options: Fields of :class:`~.config.TransformerConfig`. Dropout may differ from the backbone's.

        Raises:
            ValueError: If another option differs from the backbone's, attention is probabilistic and the backbone has
                what only softmax attention has, or texts and conditions need more positions than it has.
        """
        own = self.sizes | {"vocabulary": self.config.vocabulary}
        for name, value in options.items():
            if name != "dropout" and value != own.get(name, value):
                way_out = "read the texts with its tokenizer" if name == "vocabulary" else "leave it out"
                raise ValueError(f"{name} is {value}, but {self.name} has {own[name]}: {way_out}.")
        if options.get("attention", "softmax") != "softmax" and (only := self.config.only_softmax):
            raise ValueError(
                f"attention is {options['attention']}, and {self.name} has {only} {getattr(self.config, only)}, which "
                "only softmax attention has: leave attention out."
            )
        condition, positions = options.get("max_condition_length", 0), self.config.max_length
        if options.get("max_length", 0) + condition > positions:
            before, verb = (f"a max_condition_length of {condition} and ", "exceed") if condition else ("", "exceeds")
            raise ValueError(
                f"{before}a max_length of {options['max_length']} {verb} the {positions} positions of {self.name}: "
                f"give at most {positions}{' for both' if condition else ''}."
            )

    def check_tokens(self, corpus: Any) -> None:
        """Raises unless the texts of a corpus have its tokens; weights alone do not tell these."""

    @torch.no_grad()
    def load_into(self, model: nn.Module, labels: int = 0) -> list[str]:
        """Copies the weights into a decoder; of the positions, as many as the decoder has.

        Arguments:
            model: A :class:`~.stacks.Decoder`, or a model with one as its ``decoder``.
            labels: The number of tokens at the end of the decoder's vocabulary that the backbone lacks, such as those
                that stand for labels; their rows stay unchanged.

        Returns:
            The names of the decoder's parameters that the backbone lacks; they stay unchanged.

        Raises:
            ValueError: If there is no decoder, or it has another architecture, or no place for a weight.
        """
        decoder = _decoder(model)
        config = decoder.config
        options = {name: getattr(config, name) for name in (*_ARCHITECTURE, "max_length", "max_condition_length")}
        self.check(**options, vocabulary=config.vocabulary - labels, hidden=config.feed_forward)
        positions = config.max_condition_length + config.max_length
        weights = {
            name: value[:positions] if name == "embedding.positions" else value for name, value in self.weights.items()
        }
        own = dict(decoder.named_parameters())
        places = {name: own[name][: self.config.vocabulary] if name in _TOKEN_ROWS else own[name] for name in own}
        _check_shapes(weights, {name: place.shape for name, place in places.items()})
        for name, value in weights.items():
            places[name].copy_(value)
        return [name for name in own if name not in weights]

    def freeze(self, model: nn.Module) -> None:
        """Freezes the weights that a model has from the backbone; its other parameters are trained as before.

        Raises:
            ValueError: If there is no decoder, or no other parameter.

        Examples:
            >>> config = TransformerConfig(vocabulary=20, max_length=12, width=16, layers=1, positions="learned")
            >>> backbone = Backbone("trained", config, Decoder(config).state_dict())
            >>> adapted = {"vocabulary": 20, "max_length": 12, **backbone.sizes, "adapter_rank": 2}
            >>> decoder = Decoder(TransformerConfig(**adapted))
            >>> backbone.freeze(decoder)
            >>> [name for name, parameter in decoder.named_parameters() if parameter.requires_grad][0]
            'blocks.0.attention.qkv.adapter_down'
        """
        for name, parameter in _decoder(model).named_parameters():
            if name in self.weights:
                parameter.requires_grad_(False)
        if not any(parameter.requires_grad for parameter in model.parameters()):
            raise ValueError(
                f"a {type(model).__name__} has no parameters but those of {self.name}: train lora or all of them, or "
                "choose a model with latents."
            )


def _decoder(model: nn.Module) -> Decoder:
    decoder = model if isinstance(model, Decoder) else getattr(model, "decoder", None)
    if not isinstance(decoder, Decoder):
        raise ValueError(f"a {type(model).__name__} has no decoder: give one, or a model with one.")
    return decoder


def _shapes(config: TransformerConfig) -> dict[str, tuple[int, ...]]:
    """Shapes of a decoder's weights, from one without memory and with one layer, which all others are like."""
    with torch.device("meta"):
        weights = dict(Decoder(replace(config, layers=1)).named_parameters())
    shapes = {}
    for name, weight in weights.items():
        for layer in range(config.layers if name.startswith("blocks.") else 1):
            shapes[name.replace("blocks.0.", f"blocks.{layer}.")] = tuple(weight.shape)
    return shapes


def _check_shapes(weights: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]]) -> None:
    for name in weights:
        if name not in shapes:
            raise ValueError(f"the decoder has no place for the weight {name}.")
    for name, needed in shapes.items():
        if name in weights and tuple(weights[name].shape) != tuple(needed):
            has = tuple(weights[name].shape)
            raise ValueError(f"{name} has shape {has}, but the decoder needs {tuple(needed)}.")
