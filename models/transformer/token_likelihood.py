r"""The distribution of tokens given hidden states, without the logits of a whole batch in memory."""

from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.distributions import constraints

from ..batch import PAD
from ..distributions.expandable import Expandable
from ..utils.precision import without_autocast

__all__ = ["TokenLikelihood", "chunk_bytes", "token_log_prob"]


class TokenLikelihood(Expandable):
    r"""Distribution over token sequences, each token independent given its hidden state.

    .. math::

        \log p(x \mid h) = \sum_{t: m_t} \big( h_t \cdot e_{x_t} + b_{x_t}
                           - \log \sum_v \exp(h_t \cdot e_v + b_v) \big)

    Positions that ``mask`` leaves out contribute nothing and are sampled as padding. The logits are computed in
    float32 at least, a chunk of positions at a time, and again in the backward pass; see :func:`token_log_prob`.
    A dimension added by :meth:`expand` is not computed again.

    Arguments:
        hidden: Hidden states :math:`h` with shape :math:`(*, T, P)`.
        embedding: One row :math:`e_v` per token of the vocabulary, with shape :math:`(V, P)`.
        bias: Bias :math:`b` with shape :math:`(V)`, or None for zero.
        mask: True where a token is present, with shape broadcastable to :math:`(*, T)`, or None for everywhere.

    Raises:
        ValueError: If the widths of ``hidden`` and ``embedding`` differ.

    Examples:
        >>> likelihood = TokenLikelihood(torch.zeros(3, 5, 4), torch.zeros(10, 4))
        >>> likelihood.batch_shape, likelihood.event_shape
        (torch.Size([3]), torch.Size([5]))
        >>> likelihood.log_prob(torch.zeros(3, 5, dtype=torch.long)).exp()
        tensor([1.0000e-05, 1.0000e-05, 1.0000e-05])
    """

    arg_constraints = {
        "hidden": constraints.independent(constraints.real, 2),
        "embedding": constraints.independent(constraints.real, 2),
    }

    def __init__(
        self,
        hidden: Float[Tensor, "*batch T P"],
        embedding: Float[Tensor, "V Q"],
        bias: Float[Tensor, " V"] | None = None,
        mask: Bool[Tensor, "..."] | None = None,
        validate_args: bool | None = None,
    ) -> None:
        if hidden.shape[-1] != embedding.shape[-1]:
            raise ValueError(
                f"hidden states of width {hidden.shape[-1]} do not fit an embedding of width {embedding.shape[-1]}: "
                "give both the same width."
            )
        self.hidden, self.embedding, self.bias, self.token_mask = hidden, embedding, bias, mask
        super().__init__(hidden.shape[:-2], hidden.shape[-2:-1], validate_args=validate_args)

    @constraints.dependent_property(is_discrete=True, event_dim=1)
    def support(self) -> constraints.Constraint:
        return constraints.independent(constraints.integer_interval(0, len(self.embedding) - 1), 1)

    def log_prob(self, value: Int[Tensor, "*sample T"]) -> Float[Tensor, "..."]:
        if self._validate_args:
            self._validate_sample(value)
        total = self.token_log_prob(value).sum(-1)
        return total.expand(torch.broadcast_shapes(total.shape, self.batch_shape))

    def token_log_prob(self, value: Int[Tensor, "*sample T"]) -> Float[Tensor, "..."]:
        """Log probability of each token, zero where the mask leaves it out; not expanded to the batch shape."""
        shape = torch.broadcast_shapes(self.hidden.shape[:-1], value.shape)
        hidden = self.hidden.expand(*shape, -1).flatten(0, -2)
        mask = None if self.token_mask is None else self.token_mask.expand(shape).flatten()
        return token_log_prob(hidden, self.embedding, value.expand(shape).flatten(), self.bias, mask).reshape(shape)

    def logits(self) -> Float[Tensor, "*batch T V"]:
        """All logits at once, for small models and for plots; no other method holds them in memory."""
        return _logits(*_common(self.hidden, self.embedding, self.bias))

    @torch.no_grad()
    def sample(self, sample_shape: Sequence[int] = ()) -> Int[Tensor, "..."]:
        shape = torch.Size(sample_shape) + self.batch_shape + self.event_shape
        return self._choose(lambda logits: logits.softmax(-1).multinomial(1).squeeze(-1), shape)

    @torch.no_grad()
    def predicted(self) -> Int[Tensor, "*batch T"]:
        """The most probable token at each position, padding where the mask leaves it out."""
        return self._choose(lambda logits: logits.argmax(-1), self.batch_shape + self.event_shape)

    def _choose(self, choose: Callable[[Tensor], Tensor], shape: torch.Size) -> Tensor:
        hidden, embedding, bias = _common(self.hidden, self.embedding, self.bias)
        rows = hidden.expand(*shape, -1).flatten(0, -2)
        size = _chunk_rows(rows, embedding)
        tokens = torch.cat([choose(_logits(chunk, embedding, bias)) for chunk in rows.split(size)]).reshape(shape)
        return tokens if self.token_mask is None else tokens.masked_fill(~self.token_mask, PAD)


def token_log_prob(
    hidden: Float[Tensor, "N P"],
    embedding: Float[Tensor, "V P"],
    tokens: Int[Tensor, " N"],
    bias: Float[Tensor, " V"] | None = None,
    mask: Bool[Tensor, " N"] | None = None,
) -> Float[Tensor, " N"]:
    r"""Log probability of one token per row, :math:`\log \mathrm{softmax}(h_n E^\top + b)_{x_n}`.

    Logits that fit into one chunk (:func:`chunk_bytes`) are kept for the backward pass. Of more, computed a chunk at a
    time, the backward pass has what costs no more memory than the vectors do, so that a training step holds
    :math:`O(N P + V P)` numbers, not :math:`O(N V)`: the gradient of :math:`h`, if :math:`E` and :math:`b` are frozen;
    the softmax before its division, if it takes no more than :math:`E` and its gradient, :math:`N \le 2 P`, or no more
    than 128 MB; otherwise nothing, and it computes the logits again. This happens inside an operator of its own: a
    compiler would merge the two identical products and keep the logits after all. That operator can be differentiated
    once.

    Arguments:
        hidden: Hidden states with shape :math:`(N, P)`.
        embedding: Token vectors with shape :math:`(V, P)`.
        tokens: Token ids with shape :math:`(N)`.
        bias: Bias with shape :math:`(V)`, or None.
        mask: True for the rows that count, with shape :math:`(N)`; the others are zero and have no gradient.

    Examples:
        >>> token_log_prob(torch.zeros(2, 4), torch.zeros(8, 4), torch.tensor([1, 7])).exp()
        tensor([0.1250, 0.1250])
    """
    hidden, embedding, bias = _common(hidden, embedding, bias)
    if mask is not None:  # masked rows, even NaN, must reach neither the value nor the gradients
        hidden = hidden.masked_fill(~mask[:, None], 0)
    rows = _chunk_rows(hidden, embedding)
    if rows < len(hidden):
        kept = _kept(hidden, embedding, bias)
        log_prob = torch.ops.pyroformer.token_log_prob_in_chunks(hidden, embedding, bias, tokens, mask, rows, kept)[0]
    else:
        log_prob = -F.cross_entropy(_logits(hidden, embedding, bias), tokens, reduction="none")
    return log_prob if mask is None else log_prob.masked_fill(~mask, 0)


def chunk_bytes(device: torch.device) -> int:
    """Size of a chunk of logits: near the cache on a CPU, large enough to fill an accelerator elsewhere."""
    return 2**23 if device.type == "cpu" else 2**27


KEPT_ROWS = 2  # of the softmax for each dimension: they take the memory of the embedding and its gradient
KEPT_BYTES = 2**27  # of a softmax that is kept in any case
LEAST_ROWS = 128  # of a chunk: with fewer, reading the embedding for each chunk takes longer than computing


def _chunk_rows(hidden: Tensor, embedding: Tensor) -> int:
    return max(LEAST_ROWS, chunk_bytes(hidden.device) // (len(embedding) * embedding.element_size()))


def _kept(hidden: Tensor, embedding: Tensor, bias: Tensor | None) -> str:
    """The result that the forward pass saves for the backward pass: "gradient", "softmax" or "nothing"."""
    trained = embedding.requires_grad or bias is not None and bias.requires_grad
    if not torch.is_grad_enabled() or not (trained or hidden.requires_grad):
        return "nothing"
    if not trained:
        return "gradient"
    few = len(hidden) <= KEPT_ROWS * hidden.shape[-1]
    return "softmax" if few or len(hidden) * len(embedding) * hidden.element_size() <= KEPT_BYTES else "nothing"


def _common(hidden: Tensor, embedding: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """Promote all tensors to one dtype, at least float32."""
    dtype = torch.promote_types(torch.promote_types(hidden.dtype, embedding.dtype), torch.float32)
    return hidden.to(dtype), embedding.to(dtype), None if bias is None else bias.to(dtype)


def _logits(hidden: Tensor, embedding: Tensor, bias: Tensor | None) -> Tensor:
    with without_autocast(hidden.device):
        return F.linear(hidden, embedding, bias)


def _chunks(count: int, rows: int) -> Iterator[slice]:
    return (slice(start, start + rows) for start in range(0, count, rows))


def _present(mask: Tensor | None, *tensors: Tensor) -> tuple[Tensor | None, tuple[Tensor, ...]]:
    """The numbers of the rows that count, and these rows; None and all of them if all count.

    On a CPU only: elsewhere finding them would synchronize with the device.
    """
    if mask is None or mask.device.type != "cpu" or bool(mask.all()):
        return None, tensors
    numbers = mask.nonzero().squeeze(-1)
    return numbers, tuple(tensor[numbers] for tensor in tensors)


def _spread(numbers: Tensor | None, rows: Tensor, count: int) -> Tensor:
    """Scatter the selected rows back to their positions, with zeros elsewhere."""
    return rows if numbers is None else rows.new_zeros(count, *rows.shape[1:]).index_copy_(0, numbers, rows)


@torch.library.custom_op(
    "pyroformer::token_log_prob_in_chunks",  # named anew with its gradient, which compiled graphs in caches call
    mutates_args=(),
    schema="(Tensor hidden, Tensor embedding, Tensor? bias, Tensor tokens, Tensor? mask, int rows, str kept) -> "
    "(Tensor, Tensor, Tensor)",
)
def _chunked(
    hidden: Tensor, embedding: Tensor, bias: Tensor | None, tokens: Tensor, mask: Tensor | None, rows: int, kept: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Log probabilities, log normalizers, and what is kept for the backward pass.

    A softmax is kept as exponentials of logits less their maximum, with their sums in place of log normalizers.
    """
    numbers, (h, tokens) = _present(mask, hidden, tokens)
    log_prob, norm = h.new_empty(len(h)), h.new_empty(len(h))
    keep = hidden.new_empty(_kept_shape(hidden, embedding, kept))
    keep[len(h) :] = 0
    with without_autocast(hidden.device):
        for part in _chunks(len(h), rows):
            logits = torch.mm(h[part], embedding.T, out=keep[part][: len(h[part])] if kept == "softmax" else None)
            logits = logits if bias is None else logits.add_(bias)
            token_logits = logits.gather(1, tokens[part].unsqueeze(1)).squeeze(1)
            peak = logits.amax(-1)
            above = logits.sub_(peak.unsqueeze(1)).exp_()
            total = above.sum(-1)
            if kept == "gradient":
                keep[part][: len(total)] = embedding[tokens[part]] - (above @ embedding) / total.unsqueeze(1)
            log_norm = total.log().add_(peak)
            log_prob[part], norm[part] = token_logits - log_norm, total if kept == "softmax" else log_norm
    return _spread(numbers, log_prob, len(hidden)), _spread(numbers, norm, len(hidden)), keep


@torch.library.custom_op(
    "pyroformer::token_log_prob_in_chunks_backward",
    mutates_args=(),
    schema="(Tensor grad, Tensor hidden, Tensor embedding, Tensor? bias, Tensor tokens, Tensor? mask, Tensor norm, "
    "Tensor keep, int rows, str kept, bool frozen) -> (Tensor, Tensor, Tensor)",
)
def _chunked_backward(
    grad: Tensor,
    hidden: Tensor,
    embedding: Tensor,
    bias: Tensor | None,
    tokens: Tensor,
    mask: Tensor | None,
    norm: Tensor,
    keep: Tensor,
    rows: int,
    kept: str,
    frozen: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of hidden states, embedding and bias; that of the logits is ``grad * (one_hot(token) - softmax)``.

    A frozen embedding gets none: it would take as much memory as the embedding, and a third of the time.
    """
    numbers, (h, tokens, grad, norm) = _present(mask, hidden, tokens, grad, norm)
    d_hidden, d_embedding = torch.empty_like(h), embedding.new_empty(0 if frozen else embedding.shape)
    if not len(h):
        d_embedding.zero_()
    d_bias = embedding.new_zeros(0 if bias is None else len(embedding))
    if kept == "gradient":
        return _spread(numbers, keep[: len(h)] * grad.unsqueeze(1), len(hidden)), d_embedding, d_bias
    with without_autocast(hidden.device):
        for part in _chunks(len(h), rows):
            g, of_row = grad[part].unsqueeze(1), norm[part].unsqueeze(1)
            if kept == "softmax":
                d_logits = keep[part][: len(g)] * (-g / of_row)
            else:
                d_logits = F.linear(h[part], embedding, bias).sub_(of_row).exp_().mul_(-g)
            d_logits.scatter_add_(1, tokens[part].unsqueeze(1), g)
            torch.mm(d_logits, embedding, out=d_hidden[part])
            if not frozen:
                d_embedding.addmm_(d_logits.T, h[part], beta=min(part.start, 1))  # the first one needs no zeros
            if bias is not None:
                d_bias += d_logits.sum(0)
    return _spread(numbers, d_hidden, len(hidden)), d_embedding, d_bias


def _kept_shape(hidden: Tensor, embedding: Tensor, kept: str) -> tuple[int, int]:
    """The shape of the saved tensor; empty if nothing is saved."""
    return {"gradient": (len(hidden), hidden.shape[-1]), "softmax": (len(hidden), len(embedding))}.get(kept, (0, 0))


@_chunked.register_fake
def _(hidden, embedding, bias, tokens, mask, rows, kept):  # type: ignore[no-untyped-def]
    keep = hidden.new_empty(_kept_shape(hidden, embedding, kept))
    return hidden.new_empty(len(hidden)), hidden.new_empty(len(hidden)), keep


@_chunked_backward.register_fake
def _(grad, hidden, embedding, bias, tokens, mask, norm, keep, rows, kept, frozen):  # type: ignore[no-untyped-def]
    d_bias = embedding.new_empty(0 if bias is None else len(embedding))
    return torch.empty_like(hidden), embedding.new_empty(0 if frozen else embedding.shape), d_bias


def _setup_context(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    ctx.set_materialize_grads(False)  # or what is kept gets a gradient of zeros, as large as it is
    hidden, embedding, bias, tokens, mask, ctx.rows, ctx.kept = inputs
    ctx.save_for_backward(hidden, embedding, bias, tokens, mask, *output[1:])


def _backward(ctx, grad, *_):  # type: ignore[no-untyped-def]
    if grad is None:
        return (None,) * 7
    frozen = not ctx.needs_input_grad[1]
    arguments = (*ctx.saved_tensors, ctx.rows, ctx.kept, frozen)
    d_hidden, d_embedding, d_bias = torch.ops.pyroformer.token_log_prob_in_chunks_backward(grad, *arguments)
    bias = ctx.saved_tensors[2]
    return d_hidden, None if frozen else d_embedding, None if bias is None else d_bias, None, None, None, None


_chunked.register_autograd(_backward, setup_context=_setup_context)
