r"""The autoregressive distribution over texts that a decoder defines, and decoding from it."""

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.distributions import constraints

from ..attention.kernel.natural_parameters import Form
from ..distributions.expandable import Expandable
from .config import TransformerConfig
from .memory import Context, Memory, batch_shape
from .stacks import Decoder
from .token_likelihood import TokenLikelihood

__all__ = ["AutoregressiveText", "text_mask"]


class AutoregressiveText(Expandable):
    r"""Autoregressive distribution over texts.

    .. math::

        p(x \mid F) = \prod_{t \le n} p(x_t \mid x_{<t}, F), \qquad
        n = \min \{ t : x_t = \text{eos} \} \ \text{or}\ T

    A text ends with its end-of-text token, or without one after :math:`T` tokens, the size of the event. The
    probabilities of all texts of both kinds sum to one. Padding follows the end and contributes nothing. A ``mask``
    cuts texts earlier.

    A subclass with another distribution of the tokens overrides :meth:`token_likelihood`, by which texts are both
    scored and written. One that overrides :meth:`log_prob` or :meth:`likelihood` can be trained, and writes nothing.

    Arguments:
        decoder: The network that gives the conditional distributions.
        memory: The memory :math:`F`: a mixture to attend to, or latents and a condition; or None.
        mask: True where there may be a token, with shape :math:`(*, T)`, or None for everywhere.
        length: The number of positions :math:`T`; None is that of the mask, or the decoder's ``max_length``.
        form: The form of attention to a mixture with variances.

    Raises:
        ValueError: If there are more positions than the decoder's ``max_length``.

    Examples:
        >>> decoder = Decoder(TransformerConfig(vocabulary=20, max_length=8, width=16))
        >>> texts = AutoregressiveText(decoder).expand([3])
        >>> tokens = texts.sample()
        >>> tokens.shape, texts.log_prob(tokens).shape
        (torch.Size([3, 8]), torch.Size([3]))
    """

    arg_constraints = {}
    draws = False  # whether the decoder draws something of its own as it writes

    def __init__(
        self,
        decoder: Decoder,
        memory: Memory | None = None,
        mask: Bool[Tensor, "*batch T"] | None = None,
        length: int | None = None,
        form: Form = "exact",
        validate_args: bool | None = None,
    ) -> None:
        max_length = decoder.config.max_length
        length = length or (max_length if mask is None else mask.shape[-1])
        if length > max_length:
            raise ValueError(
                f"texts of {length} tokens do not fit the decoder's max_length of {max_length}: cut or split them."
            )
        self.decoder, self.memory, self.token_mask, self.form = decoder, memory, mask, form
        shapes = [] if memory is None else [batch_shape(memory)]
        if mask is not None:
            shapes.append(mask.shape[:-1])
        super().__init__(torch.broadcast_shapes(*shapes), torch.Size((length,)), validate_args=validate_args)

    @constraints.dependent_property(is_discrete=True, event_dim=1)
    def support(self) -> constraints.Constraint:
        return _Texts(self.decoder.config)

    def log_prob(self, value: Int[Tensor, "*texts T"]) -> Float[Tensor, "..."]:
        """Log probability by teacher forcing. Dimensions added by ``expand`` are not computed again."""
        if self._validate_args:
            self._validate_sample(value)
        log_prob = self.likelihood(value).log_prob(value)
        return log_prob.expand(torch.broadcast_shapes(log_prob.shape, self.batch_shape))

    def likelihood(self, value: Int[Tensor, "*texts T"]) -> TokenLikelihood:
        """The distribution of each token of a text given earlier tokens."""
        mask = text_mask(value, self.decoder.config.eos)
        if self.token_mask is not None:
            mask = mask & self.token_mask
        return self.token_likelihood(self._hidden(value), mask)

    def token_likelihood(
        self, hidden: Float[Tensor, "*batch T P"], mask: Bool[Tensor, "*batch T"] | None = None
    ) -> TokenLikelihood:
        """The distribution of each token given the decoder's hidden state before it.

        Arguments:
            hidden: Hidden states, of whole texts or, where texts are written, of the next token alone.
            mask: True where there is a token, or None for everywhere.
        """
        return TokenLikelihood(hidden, *self.decoder.readout, mask=mask, validate_args=False)

    def _hidden(self, value: Int[Tensor, "*texts T"]) -> Float[Tensor, "*batch T P"]:
        return self.decoder(value, self.memory, self.form)

    @torch.no_grad()
    def sample(self, sample_shape: Sequence[int] = ()) -> Int[Tensor, "*batch T"]:
        """Ancestral sampling; texts that end early are padded."""
        batch = torch.Size(sample_shape) + self.batch_shape
        (length,) = self.event_shape
        tokens = self.decode(_sample_token, batch, length, draws=self.draws)
        tokens = F.pad(tokens, (0, length - tokens.shape[-1]), value=self.decoder.config.pad)
        return tokens if self.token_mask is None else tokens.masked_fill(~self.token_mask, self.decoder.config.pad)

    @torch.no_grad()
    def decode(
        self,
        choose: Callable[[Float[Tensor, "N V"]], Int[Tensor, " N"]],
        batch: Sequence[int],
        max_length: int | None = None,
        prompt: Int[Tensor, "*#batch K"] | None = None,
        draws: bool = False,
    ) -> Int[Tensor, "*batch T"]:
        r"""Texts that are written token by token, until all have ended.

        Arguments:
            choose: A function that picks a token for each row of logits; the batch of texts is flattened to :math:`N`
                rows.
            batch: Batch shape of the texts; that of the memory expands to it.
            max_length: The largest number of tokens of a text, prompt included; None is the decoder's ``max_length``.
            prompt: The first tokens of each text, with padding on any side.
            draws: Whether layers of the decoder that attend to mixtures over its tokens draw these; by default they
                attend to the means.

        Returns:
            The texts, prompts included, padded at the end to the longest.

        Raises:
            ValueError: If ``max_length`` exceeds that of the decoder, a prompt exceeds ``max_length``, or a subclass
                defines a density in a way that writing does not read.

        Examples:
            >>> decoder = Decoder(TransformerConfig(vocabulary=20, max_length=8, width=16)).eval()
            >>> greedy, prompt = lambda logits: logits.argmax(-1), torch.tensor([[5, 6], [7, 0]])
            >>> texts = AutoregressiveText(decoder).decode(greedy, (2,), prompt=prompt)
            >>> texts[0, :2].tolist(), texts[1, :1].tolist()
            ([5, 6], [7])
        """
        _check_writes(type(self))
        config, device = self.decoder.config, self.decoder.embedding.tokens.weight.device
        max_length = max_length or config.max_length
        if max_length > config.max_length:
            raise ValueError(
                f"max_length is {max_length}, but the decoder's max_length is {config.max_length}: give at most that."
            )
        prompt = torch.empty(0, dtype=torch.long) if prompt is None else prompt
        prompt = prompt.to(device).expand(*batch, -1).reshape(math.prod(batch), prompt.shape[-1])
        length = (prompt != config.pad).sum(-1)
        if (longest := max(length.tolist(), default=0)) > max_length:
            raise ValueError(
                f"a prompt has {longest} tokens, but max_length is {max_length}: shorten it or allow more."
            )

        # The rows of the input end at the same position, where generation goes on; texts start at the same position.
        tokens, present = _decoder_input(prompt, batch, self.memory, config)
        mask = None if bool(present.all()) else present
        texts = _gather_present(prompt, prompt != config.pad)[0][:, :longest]
        texts = F.pad(texts, (0, max_length + 1 - longest), value=config.pad)
        cache = self.decoder.cache(batch, tokens.shape[-1] + max_length, self.memory, self.form)
        cache.draws = draws
        ended = (length >= max_length) | (prompt == config.eos).any(-1)
        while not bool(ended.all()):
            hidden = self.decoder.step(tokens, cache, mask)[:, -1:]
            token = choose(self.token_likelihood(hidden).logits().squeeze(1))
            token = token.masked_fill(ended, config.pad)
            texts = texts.scatter(1, length[:, None], token[:, None])  # padding, after the end of one that has ended
            length = length + ~ended
            ended = ended | (token == config.eos) | (length >= max_length)
            tokens, mask = token[:, None], None
        texts = texts[:, : max(length.tolist(), default=0)]
        return texts.reshape(*batch, texts.shape[-1])


def text_mask(tokens: Int[Tensor, "*batch T"], eos: int) -> Bool[Tensor, "*batch T"]:
    """True up to the first end-of-text token, itself included, and everywhere in a text without one.

    Examples:
        >>> text_mask(torch.tensor([[5, 2, 0, 0], [5, 6, 7, 8]]), eos=2).tolist()
        [[True, True, False, False], [True, True, True, True]]
    """
    ends = (tokens == eos).long()
    return ends.cumsum(-1) - ends == 0


class _Texts(constraints.Constraint):
    """Token ids of the vocabulary, with padding only after the end."""

    is_discrete = True
    event_dim = 1

    def __init__(self, config: TransformerConfig) -> None:
        self.config = config

    def check(self, value: Tensor) -> Tensor:
        valid = (value >= 0) & (value < self.config.vocabulary)
        return (valid & (text_mask(value, self.config.eos) | (value == self.config.pad))).all(-1)


def _check_writes(cls: type[AutoregressiveText]) -> None:
    """Raises a ValueError if a class outside pyroformer changes the density where writing token by token reads none."""
    for name in ("log_prob", "likelihood", "_hidden"):
        owner = next(each for each in cls.__mro__ if name in vars(each))
        if not owner.__module__.startswith("pyroformer."):
            raise ValueError(
                f"{owner.__name__} defines {name}, which writing token by token does not read: define "
                "token_likelihood(hidden, mask), which training reads too."
            )


def _sample_token(logits: Float[Tensor, "N V"]) -> Int[Tensor, " N"]:
    return logits.softmax(-1).multinomial(1).squeeze(-1)


def _decoder_input(
    prompt: Tensor, batch: Sequence[int], memory: Memory | None, config: TransformerConfig
) -> tuple[Tensor, Tensor]:
    """Condition, beginning-of-text token and prompt of each text, aligned at the right end, and their mask."""
    tokens, present = F.pad(prompt, (1, 0), value=config.bos), F.pad(prompt != config.pad, (1, 0), value=True)
    if isinstance(memory, Context) and memory.condition_tokens is not None:
        condition, condition_mask = (
            x.expand(*batch, -1).reshape(len(tokens), -1) for x in (memory.condition_tokens, memory.present)
        )
        tokens, present = torch.cat([condition, tokens], 1), torch.cat([condition_mask, present], 1)
    return _gather_present(tokens, present, right=True)


def _gather_present(tokens: Tensor, present: Tensor, right: bool = False) -> tuple[Tensor, Tensor]:
    """Align the present tokens of each row at the left or right end, in order."""
    order = (present if right else ~present).byte().argsort(dim=-1, stable=True)
    return tokens.gather(-1, order), present.gather(-1, order)
