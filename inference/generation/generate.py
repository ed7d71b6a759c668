r"""Texts from a fitted model: those that it gives back, and those that it makes up.

The noise of each text is a function of the seed and the text's number: neither the size of a batch nor what else is in
it changes a text.
"""

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from jaxtyping import Float, Int
from pyro import poutine
from torch import Tensor

from ...guides.base import Guide, encodes, no_encode
from ...guides.posteriors import TextPosterior
from ...models.attention.editing import compacted
from ...models.attention.mixture import Mixture
from ...models.batch import Batch
from ...models.transformer.memory import Memory, batch_shape, stacked
from ...models.transformer.text_distribution import AutoregressiveText
from ...models.transformer.text_distribution import decode as write_tokens
from ..runs.fitted import FittedModel, check_same_length
from ..utils.seeded_eval import seeded_eval
from ..utils.seeds import item_seed
from .decoding import Decoding, uniforms
from .reconstruction import Reconstruction

__all__ = ["decode", "encode", "encode_batch", "reconstruct", "sample", "text_distribution", "write"]

GREEDY = Decoding(greedy=True)


def encode(run: FittedModel, texts: str | Sequence[str], conditions: Sequence[str] | None = None) -> TextPosterior:
    """The posterior of each text, with its condition if the run was trained on pairs.

    Raises:
        ValueError: If nothing is latent in the model, its guide defines no ``encode``, or a text is longer than the
            model's max_length.
    """
    with seeded_eval(run.model, run.guide, seed=0):
        return encode_batch(run, run.batch(texts, conditions))


def encode_batch(run: FittedModel, batch: Batch) -> TextPosterior:
    """The posterior of each text of a batch, in the mode and with the gradients that the run's modules are in.

    Raises:
        ValueError: If nothing is latent in the model, or its guide defines no ``encode``.
    """
    if run.guide is None:
        name = type(run.model).__name__
        raise ValueError(f"a {name} has no latents, so no posterior to encode a text into: sample from it instead.")
    if not encodes(run.guide):
        raise ValueError(no_encode(run.guide))
    return run.guide.encode(batch)


def decode(run: FittedModel, memory: Memory, decoding: Decoding = GREEDY, *, seed: int = 0) -> list[str]:
    """The text that the model writes for each memory of a batch.

    Raises:
        ValueError: If the memory is of another kind or size than the model's, or has not one text a row.
    """
    memory, shape = run.model.check_memory(memory), tuple(batch_shape(memory))
    if len(shape) != 1:
        raise ValueError(f"the memory is of batch shape {shape}: give one row for each text, as run.encode does.")
    with seeded_eval(run.model, run.guide, seed=seed):
        noise = _noise(run, seed, range(*batch_shape(memory)))
        tokens = write(text_distribution(run, memory), decoding, noise, text_vocabulary=run.tokenizer.vocabulary)
        return run.tokenizer.decode_batch(tokens)


def reconstruct(
    run: FittedModel,
    texts: Sequence[str],
    decoding: Decoding = GREEDY,
    *,
    conditions: Sequence[str] | None = None,
    min_weight: float = 0.0,
    seed: int = 0,
    batch_size: int = 64,
) -> list[Reconstruction]:
    """Each text, encoded and written again from the mean of its posterior.

    Arguments:
        run: A run with a guide.
        texts: What to encode; none may be longer than the model's max_length.
        decoding: How tokens are chosen; the most probable ones by default.
        conditions: What each text answers to, if the run was trained on pairs.
        min_weight: Vectors of a mixture whose mean weight is below it leave before anything is written, which takes
            less time then; the prior's stay. The weights that are told are those of all vectors.
        seed: Of the noise, where tokens are drawn.
        batch_size: Texts that are written at a time.

    Raises:
        ValueError: If nothing is latent in the model, a text does not fit its max_length or lacks its condition, or
            ``min_weight`` is out of range or is given where there is no mixture.
    """
    check_same_length(texts, conditions)
    result, text_vocabulary = [], run.tokenizer.vocabulary
    with seeded_eval(run.model, run.guide, seed=seed):
        for items in _chunks(len(texts), batch_size):
            originals = [texts[item] for item in items]
            batch = run.batch(originals, None if conditions is None else [conditions[item] for item in items])
            posterior = encode_batch(run, batch)
            likelihood = text_distribution(run, _thinned(run, posterior, min_weight))
            tokens = write(likelihood, decoding, _noise(run, seed, items), text_vocabulary=text_vocabulary)
            written = run.tokenizer.decode_batch(tokens)
            weights = posterior.token_weights()
            rows = [None] * len(items) if weights is None else weights.tolist()
            for text, original, row in zip(written, originals, rows, strict=True):
                pieces = tuple(run.tokenizer.pieces(original))
                result.append(Reconstruction.from_weights(text, original, pieces, row))
    return result


def sample(
    run: FittedModel,
    n: int = 1,
    decoding: Decoding | None = None,
    *,
    seed: int = 0,
    prompt: str = "",
    condition: str | None = None,
    batch_size: int = 64,
) -> list[str]:
    """Texts that the model makes up, from its latents down; the first ones of a longer list are those of a shorter.

    Arguments:
        run: Any run.
        n: How many.
        decoding: How tokens are chosen; drawn from the model itself by default.
        seed: Of latents and tokens.
        prompt: How every text begins.
        condition: What every text answers to, if the run was trained on pairs.
        batch_size: Texts that are written at a time.

    Raises:
        ValueError: If ``n`` is negative, the prompt leaves no room in the model's max_length, or there is a condition and
            should be none, or the other way round.
    """
    if n < 0:
        raise ValueError(f"n is {n}: give how many texts to sample.")
    begun = torch.tensor(run.tokenizer.encode(prompt)[:-1], dtype=torch.long)
    if len(begun) >= run.corpus.max_length:
        raise ValueError(f"the prompt has {len(begun)} tokens, the max_length is {run.corpus.max_length}: shorten it.")
    told = run.conditions(None if condition is None else [condition])
    texts: list[str] = []
    with seeded_eval(run.model, run.guide, seed=seed):
        for items in _chunks(n, batch_size):
            drawn = [_prior_memory(run, item_seed(seed, item, "latents"), told) for item in items]
            memories = [memory for memory in drawn if memory is not None]
            text = text_distribution(run, stacked(memories) if memories else None).expand([len(items)])
            noise = _noise(run, seed, items)
            tokens = write(text, decoding or Decoding(), noise, begun, text_vocabulary=run.tokenizer.vocabulary)
            texts += run.tokenizer.decode_batch(tokens)
    return texts


def text_distribution(run: FittedModel, memory: Memory | None) -> AutoregressiveText:
    """The distribution of texts given a memory, if it can be written token by token.

    Raises:
        ValueError: If the model's likelihood is of another kind.
    """
    return _autoregressive(run, run.model.likelihood(memory))


def write(
    text: AutoregressiveText,
    decoding: Decoding,
    noise: Float[Tensor, "B W"],
    prompt: Int[Tensor, " K"] | None = None,
    text_vocabulary: int | None = None,
) -> Int[Tensor, "B T"]:
    """Tokens of one text for each row, never padding, beginning-of-text or a label.

    Arguments:
        text: The distribution over texts, with batch shape :math:`(B)`.
        decoding: How tokens are chosen.
        noise: What decides the draws, one column for each token.
        prompt: How every text begins.
        text_vocabulary: The number of tokens that texts are made of; those beyond are labels. All if None.
    """
    config = text.decoder.config
    labels = range(config.vocabulary if text_vocabulary is None else text_vocabulary, config.vocabulary)
    never = torch.tensor([config.pad, config.bos, *labels], device=noise.device)
    rule = decoding.token_sampler(noise)

    def choose(logits: Float[Tensor, "B V"]) -> Int[Tensor, " B"]:
        return rule(logits.index_fill(-1, never, -torch.inf))

    tokens: Tensor = write_tokens(text.decoder, choose, text.batch_shape, None, text.memory, text.form, prompt)
    return tokens


def _thinned(run: FittedModel, posterior: TextPosterior, min_weight: float) -> Memory:
    """The posterior's memory, of a mixture without the components that weigh less; the prior's stay."""
    memory = posterior.memory()
    if min_weight == 0:
        return memory
    weights = posterior.token_weights()
    if weights is None or not isinstance(memory, Mixture):
        name = type(run.model).__name__
        raise ValueError(f"min_weight is {min_weight}, but a {name} has no weights to drop vectors by: leave it out.")
    return compacted(memory, min_weight, keep=memory.components // (weights.shape[-1] + 1))


def _autoregressive(run: FittedModel, distribution: Any) -> AutoregressiveText:
    if not isinstance(distribution, AutoregressiveText):
        raise ValueError(
            f"the likelihood of {type(run.model).__name__} is of the kind {type(distribution).__name__}, and only an "
            "AutoregressiveText is written token by token: leave out what writes texts, or return one."
        )
    return distribution


def _prior_memory(run: FittedModel, seed: int, told: list[list[int]] | None) -> Memory | None:
    """What the decoder of one made-up text is told: the model's own draw of each text's latents."""
    torch.manual_seed(seed)
    placeholder = {"text": torch.zeros(1, run.corpus.max_length, dtype=torch.long, device=run.model.device)}
    unwritten = poutine.trace(poutine.condition(run.model, placeholder))
    learned = run.guide.set_hyperparameters(drawn=True) if isinstance(run.guide, Guide) else nullcontext()
    with learned:  # hyper-priors belong to all texts, also to those that were read
        trace = unwritten.get_trace(Batch.unobserved(1, like=next(run.model.parameters()), conditions=told))
    return _autoregressive(run, trace.nodes["text"]["fn"]).memory


def _noise(run: FittedModel, seed: int, items: range) -> Float[Tensor, "B W"]:
    return uniforms(seed, items, run.corpus.max_length).to(run.model.device)


def _chunks(n: int, size: int) -> Iterator[range]:
    if size < 1:
        raise ValueError(f"batch_size is {size}: give at least 1.")
    return (range(start, min(start + size, n)) for start in range(0, n, size))
