r"""Encoding, decoding, reconstruction and sampling of texts with a fitted model.

The noise of each text is a function of the seed and the text's index, so that a text does not depend on the batch.
"""

from collections.abc import Iterator

import torch
from jaxtyping import Bool, Float, Int
from pyro import poutine
from torch import Tensor
from torch.distributions import Distribution

from ...guides.base import encodes, hyperparameters, no_encode
from ...guides.posteriors import TextPosterior
from ...models.attention.editing import compacted
from ...models.attention.mixture import Mixture
from ...models.batch import Batch
from ...models.transformer.memory import Memory, batch_shape, stacked
from ...models.transformer.text_distribution import AutoregressiveText
from ...models.utils.numbers import check_at_least, declared_number
from ..data.entries import Conditions, TextSource, as_conditions, as_texts
from ..runs.fitted import FittedModel, check_same_length
from ..utils.seeded_eval import seeded_eval
from ..utils.seeds import derived_seed, set_seed
from .decoding import Decoding, uniforms
from .prompts import Prompt
from .reconstruction import Reconstruction

__all__ = [
    "check_min_weight",
    "decode",
    "encode",
    "encode_batch",
    "likelihood",
    "reconstruct",
    "sample",
    "text_distribution",
    "thinned",
    "write",
]

GREEDY = Decoding(greedy=True)


def encode(run: FittedModel, texts: TextSource, conditions: Conditions | None = None) -> TextPosterior:
    """The posterior of each text, with its condition if the run was trained on pairs.

    Raises:
        ValueError: If the model has no latents, its guide defines no ``encode``, or a text is longer than the model's
            max_length.
    """
    with seeded_eval(run.model, run.guide, seed=0):
        return encode_batch(run, run.batch(texts, conditions))


def encode_batch(run: FittedModel, batch: Batch) -> TextPosterior:
    """The posterior of each text of a batch, in the current mode of the run's modules.

    Raises:
        ValueError: If the model has no latents, or its guide defines no ``encode``.
    """
    if run.guide is None:
        name = type(run.model).__name__
        raise ValueError(f"a {name} has no latents, so no posterior to encode a text into: sample from it instead.")
    if not encodes(run.guide):
        raise ValueError(no_encode(run.guide))
    return run.guide.encode(batch)


def decode(run: FittedModel, memory: Memory, decoding: Decoding = GREEDY, *, seed: int = 0) -> list[str]:
    """Generate one text for each memory of a batch.

    Raises:
        ValueError: If the memory does not have the type or shape that the decoder expects, or more than one batch
            dimension.
    """
    memory, shape = run.model.check_memory(memory), tuple(batch_shape(memory))
    if len(shape) != 1:
        raise ValueError(f"the memory is of batch shape {shape}: give one row for each text, as run.encode does.")
    with seeded_eval(run.model, run.guide, seed=seed):
        return _texts(run, text_distribution(run, memory), decoding, seed, range(*shape))


def reconstruct(
    run: FittedModel,
    texts: TextSource,
    decoding: Decoding = GREEDY,
    *,
    conditions: Conditions | None = None,
    min_weight: float = 0.0,
    seed: int = 0,
    batch_size: int = 64,
    start: int = 0,
) -> list[Reconstruction]:
    """Encode each text and decode the mean of its posterior.

    Arguments:
        run: A run with a guide.
        texts: The texts to reconstruct.
        decoding: Decoding strategy; greedy by default.
        conditions: The condition of each text, if the run was trained on pairs.
        min_weight: Components of the mixture with a smaller mean weight are dropped before decoding, which is faster;
            those of the prior stay. The weights in the result are those before dropping.
        seed: Random seed of the sampled tokens.
        batch_size: Number of texts decoded at a time.
        start: Number of the first text, for a list that is reconstructed part by part.

    Raises:
        ValueError: If the model has no latents, a text is longer than its max_length or has no condition, or
            ``min_weight`` is out of range or the memory is not a mixture.
    """
    texts = as_texts(texts)
    conditions = None if conditions is None else as_conditions(conditions)
    check_same_length(texts, conditions)
    result = []
    with seeded_eval(run.model, run.guide, seed=seed):
        for items in _chunks(len(texts), batch_size):
            originals = [texts[item] for item in items]
            batch = run.batch(originals, None if conditions is None else [conditions[item] for item in items])
            posterior = encode_batch(run, batch)
            text = text_distribution(run, thinned(run, posterior, min_weight))
            generated = _texts(run, text, decoding, seed, range(start + items.start, start + items.stop))
            weights = posterior.token_weights()
            rows = [None] * len(items) if weights is None else weights.tolist()
            for written, original, row in zip(generated, originals, rows, strict=True):
                pieces = tuple(run.tokenizer.pieces(original))
                result.append(Reconstruction.from_weights(written, original, pieces, row))
    return result


def sample(
    run: FittedModel,
    n: int = 1,
    decoding: Decoding | None = None,
    *,
    seed: int = 0,
    prompt: str = "",
    condition: str | int | None = None,
    batch_size: int = 64,
    start: int = 0,
) -> list[str]:
    """Generate texts: latents from the prior, then tokens from the decoder.

    Text i depends on the seed and on i only: with the same seed, a larger ``n`` appends texts.

    Arguments:
        run: Any run.
        n: Number of texts.
        decoding: Decoding strategy; by default tokens are sampled from the model's own distribution.
        seed: Random seed of latents and tokens.
        prompt: Beginning of every text; it may end in a blank or inside a word (see :class:`~.prompts.Prompt`).
        condition: The condition of every text, if the run was trained on pairs.
        batch_size: Number of texts decoded at a time.
        start: Number of the first text, for samples that are drawn part by part.

    Raises:
        ValueError: If ``n`` is negative, the prompt is not shorter than the model's max_length, or the condition is
            missing or superfluous.
    """
    n = declared_number("n", n, int)
    if n < 0:
        raise ValueError(f"n is {n}: give how many texts to sample.")
    beginning = _prompt(run, prompt)
    condition_tokens = run.conditions(None if condition is None else [condition])
    texts: list[str] = []
    with seeded_eval(run.model, run.guide, seed=seed):
        for items in _chunks(n, batch_size, start):
            samples = [_prior_memory(run, derived_seed(seed, item, "latents"), condition_tokens) for item in items]
            memories = [memory for memory in samples if memory is not None]
            text = text_distribution(run, stacked(memories) if memories else None).expand([len(items)])
            texts += _texts(run, text, decoding or Decoding(), seed, items, beginning)
    return texts


def text_distribution(run: FittedModel, memory: Memory | None) -> AutoregressiveText:
    """The autoregressive distribution of texts given a memory.

    Raises:
        ValueError: If the model's likelihood is not autoregressive.
    """
    return _autoregressive(run, likelihood(run, memory))


def likelihood(run: FittedModel, memory: Memory | None, mask: Bool[Tensor, "*batch T"] | None = None) -> Distribution:
    """The distribution of texts given a memory, with the medians of hyper-priors that the model's likelihood reads."""
    with hyperparameters(run.guide):
        return run.model.likelihood(memory, mask)


def _texts(
    run: FittedModel,
    text: AutoregressiveText,
    decoding: Decoding,
    seed: int,
    items: range,
    prompt: Prompt | None = None,
) -> list[str]:
    """The texts of some items, with the noise of each."""
    noise = uniforms(seed, items, run.corpus.max_length).to(run.model.device)
    return run.tokenizer.decode_batch(write(text, decoding, noise, prompt, run.tokenizer.vocabulary))


def write(
    text: AutoregressiveText,
    decoding: Decoding,
    noise: Float[Tensor, "B W"],
    prompt: Prompt | None = None,
    text_vocabulary: int | None = None,
) -> Int[Tensor, "B T"]:
    """Tokens of one text for each row; padding, beginning-of-text and label tokens are excluded.

    Arguments:
        text: The distribution over texts, with batch shape :math:`(B)`.
        decoding: Decoding strategy.
        noise: Uniform noise from which tokens are sampled, one column for each token.
        prompt: Beginning of every text.
        text_vocabulary: Size of the vocabulary of texts; tokens beyond it are labels. The whole vocabulary if None.

    Raises:
        ValueError: If the model predicts NaN, or its likelihood defines a density that writing does not read.
    """
    config = text.decoder.config
    labels = range(config.vocabulary if text_vocabulary is None else text_vocabulary, config.vocabulary)
    excluded = torch.tensor([config.pad, config.bos, *labels], device=noise.device)
    sampler = decoding.token_sampler(noise)
    places = torch.zeros(text.batch_shape, dtype=torch.long, device=noise.device)  # in the last piece of the prompt
    tokens, last_piece = (None, None) if prompt is None else prompt
    left = config.max_length - (0 if tokens is None else len(tokens))

    def choose(logits: Float[Tensor, "B V"]) -> Int[Tensor, " B"]:
        nonlocal places, left
        _check_finite(logits)
        logits = logits.index_fill_(-1, excluded, -torch.inf)  # in place: no other reference to the logits
        if last_piece is None:
            return sampler(logits)
        token = sampler(last_piece.mask(logits, places, left))
        places, left = last_piece.advance(places, token), left - 1
        return token

    return text.decode(choose, text.batch_shape, prompt=tokens)


def _check_finite(logits: Float[Tensor, "B V"]) -> None:
    if not bool(logits.amax(-1).isfinite().all()):  # single tokens may be excluded by -inf
        raise ValueError(
            "the model predicts logits that are not finite, so its training diverged: fit it anew with a smaller "
            "learning_rate."
        )


def _prompt(run: FittedModel, text: str) -> Prompt:
    (text,), max_length = as_texts([text], "prompt"), run.corpus.max_length
    if (size := len(run.tokenizer.encode(text)) - 1) >= max_length:
        raise ValueError(f"the prompt has {size} tokens, the max_length is {max_length}: shorten it.")
    return Prompt.encode(text, run.tokenizer)


def thinned(run: FittedModel, posterior: TextPosterior, min_weight: float) -> Memory:
    """The posterior's memory, without components that are absent or weigh less than ``min_weight``.

    Those of the prior stay.

    Raises:
        ValueError: If there is a ``min_weight`` and no weight to compare with it, or it is out of range.
    """
    memory = posterior.memory()
    chooses = (mixture := posterior.mixture()) is not None and mixture.log_odds is not None
    if min_weight == 0 and not chooses:
        return memory
    weights = posterior.token_weights()
    if weights is None or not isinstance(memory, Mixture):
        name = type(run.model).__name__
        raise ValueError(f"min_weight is {min_weight}, but a {name} has no weights to drop vectors by: leave it out.")
    check_min_weight(min_weight)
    return compacted(memory, min_weight, keep=memory.components // (weights.shape[-1] + 1))


def check_min_weight(value: float) -> None:
    """Raises a ValueError unless a value can be the smallest weight of a vector that stays."""
    if not 0 <= value < 1:
        raise ValueError(f"min_weight is {value}: give a weight from 0 to below 1.")


def _autoregressive(run: FittedModel, distribution: object) -> AutoregressiveText:
    if not isinstance(distribution, AutoregressiveText):
        raise ValueError(
            f"the likelihood of {type(run.model).__name__} has the type {type(distribution).__name__}, and only an "
            "AutoregressiveText can be decoded token by token: return one, or skip what generates texts."
        )
    return distribution


def _prior_memory(run: FittedModel, seed: int, conditions: list[list[int]] | None) -> Memory | None:
    """The input of the decoder for one sampled text: latents from the prior, and the condition."""
    set_seed(seed)
    placeholder = {"text": torch.zeros(1, run.corpus.max_length, dtype=torch.long, device=run.model.device)}
    conditioned = poutine.trace(poutine.condition(run.model, placeholder))
    with hyperparameters(run.guide, drawn=True):  # shared with the training texts: they come from their posterior
        trace = conditioned.get_trace(Batch.unobserved(1, like=next(run.model.parameters()), conditions=conditions))
    return _autoregressive(run, trace.nodes["text"]["fn"]).memory


def _chunks(n: int, batch_size: int, start: int = 0) -> Iterator[range]:
    check_at_least(1, batch_size=batch_size)
    return (range(first, min(first + batch_size, start + n)) for first in range(start, start + n, batch_size))
