"""Reading the vector of a place: Bayes' rule by hand, no order of vectors, places without one, a token at a time."""

import math
from dataclasses import replace

import pytest
import torch
from pyro import distributions as dist
from torch import Tensor

from pyroformer.models.attention.mixture import Mixture
from pyroformer.models.transformer.config import TransformerConfig
from pyroformer.models.transformer.place_reader import PlaceReader, place_codes, place_width
from pyroformer.models.transformer.stacks import Decoder
from pyroformer.models.transformer.text_distribution import AutoregressiveText

CONFIG = TransformerConfig(vocabulary=12, max_length=8, width=32, layers=1, heads=2, init_std=0.3)
WORDS = torch.tensor([[5, 6, 7, 2], [9, 3, 3, 2]])


def reader(config: TransformerConfig = CONFIG, weighted: bool = True) -> PlaceReader:
    made = PlaceReader(config.vocabulary, config.width, config.max_length, weighted)
    made.log_variance.data.fill_(math.log(2.0))
    return made


def decoder(**options: object) -> Decoder:
    config = replace(CONFIG, **options)  # type: ignore[arg-type]
    made = Decoder(config, cross_attention=True, reader=reader(config)).eval()
    for block in made.blocks:
        block.cross.out.weight.data.zero_()  # type: ignore[union-attr, operator]
    return made


def vectors(read: PlaceReader, tokens: Tensor, noise: float = 0.5) -> Tensor:
    """A vector for each token: its own, with noise, and the code of its place."""
    content = read.codebook.detach()[tokens]
    codes = place_codes(torch.arange(tokens.shape[-1]), read.code_width, read.max_length)
    return torch.cat([content + noise * torch.randn_like(content), codes.expand(*tokens.shape, -1)], -1)


def close(actual: Tensor, expected: Tensor, atol: float = 1e-4) -> None:
    torch.testing.assert_close(actual, expected, atol=atol, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("options", [{}, {"positions": "rotary"}, {"tied": False}], ids=str)
def test_the_output_is_the_posterior_of_a_token_given_the_vector_at_its_place(options: dict[str, object]) -> None:
    """By hand: the decoder alone is the prior, and the vector an observation of the token's own with variance 2."""
    whole = decoder(**options)
    z = vectors(whole.reader, WORDS)  # type: ignore[arg-type]
    alone = Decoder(whole.config)
    alone.load_state_dict({k: v for k, v in whole.state_dict().items() if "cross" not in k and "reader" not in k})
    weight, bias = alone.readout
    prior = (alone.eval()(WORDS) @ weight.T + (0 if bias is None else bias)).log_softmax(-1)
    codebook = whole.reader.codebook  # type: ignore[union-attr]
    seen = dist.Normal(codebook, 2.0**0.5).to_event(1).log_prob(z[..., None, : codebook.shape[-1]])
    expected = (prior + seen).log_softmax(-1).gather(-1, WORDS[..., None])[..., 0].sum(-1)
    close(AutoregressiveText(whole, Mixture(torch.zeros(2, 4), z), length=4).log_prob(WORDS), expected, atol=1e-3)


@torch.no_grad()
def test_the_order_of_the_vectors_does_not_matter_and_absent_ones_are_not_read() -> None:
    whole = decoder()
    z = vectors(whole.reader, WORDS)  # type: ignore[arg-type]
    expected = whole(WORDS, Mixture(torch.zeros(2, 4), z))
    order = torch.tensor([2, 0, 3, 1])
    close(whole(WORDS, Mixture(torch.zeros(2, 4), z[:, order])), expected)
    junk = torch.full((2, 1, 32), torch.nan)
    mask = torch.tensor([False, True, True, True, True]).expand(2, 5)
    close(whole(WORDS, Mixture(torch.zeros(2, 5), torch.cat([junk, z], 1), mask=mask)), expected)


@torch.no_grad()
def test_a_place_without_a_vector_says_nothing() -> None:
    read = reader()
    z = vectors(read, WORDS)[:, [0, 1, 3]]
    seen = read(torch.arange(4).expand(2, 4), Mixture(torch.zeros(2, 3), z))
    close(2.0 * seen[..., -1], torch.tensor([1.0, 1.0, 0.0, 1.0]).expand(2, 4), atol=1e-3)  # of variance 2
    assert seen[:, 2].abs().max() < 1e-2 < 1 < seen[:, 0].abs().max()


@torch.no_grad()
def test_weights_count_if_they_are_latent() -> None:
    """Two vectors at one place: the average by weight, or that of equals."""
    two = torch.tensor([[5], [9]])
    for weighted, share in ((True, 0.9), (False, 0.5)):
        read = reader(weighted=weighted)
        z = vectors(read, two, noise=0.0).transpose(0, 1)
        seen = read(torch.zeros(1, 1, dtype=torch.long), Mixture(torch.tensor([[0.9, 0.1]]).log(), z))
        expected = (share * read.codebook[5] + (1 - share) * read.codebook[9]) / 2.0
        close(seen[0, 0, :-1], expected, atol=1e-3)


@torch.no_grad()
def test_weights_are_the_posterior_of_gaussians_around_the_codes() -> None:
    """Vectors of unit variance around the code of a place, beside one of which nothing but a density is known."""
    read, place = reader(), torch.arange(4).expand(2, 4)
    z = vectors(read, WORDS)
    z[..., -read.code_width :] += 0.7 * torch.randn(2, 4, read.code_width)
    log_weights = torch.randn(2, 4)
    codes = place_codes(place, read.code_width, read.max_length)
    density = dist.Normal(z[:, None, :, -read.code_width :], 1.0).to_event(1)
    joint = (density.log_prob(codes[:, :, None]) + log_weights[:, None]).exp()
    unknown = math.exp(-12) * (2 * math.pi) ** (-read.code_width / 2)
    close(read.weights(place, Mixture(log_weights, z)), joint / (joint.sum(-1, keepdim=True) + unknown))


@torch.no_grad()
def test_one_token_at_a_time() -> None:
    whole = decoder()
    memory = Mixture(torch.zeros(2, 4), vectors(whole.reader, WORDS))  # type: ignore[arg-type]
    cache = whole.cache([2], capacity=4, memory=memory)
    before = torch.cat([torch.full((2, 1), CONFIG.bos), WORDS[:, :-1]], 1)
    steps = [whole.step(before[:, i : i + 1], cache) for i in range(4)]
    close(torch.cat(steps, 1), whole(WORDS, memory))


@torch.no_grad()
def test_it_reads_in_float32_under_autocast() -> None:
    whole = decoder()
    memory = Mixture(torch.zeros(2, 4), vectors(whole.reader, WORDS))  # type: ignore[arg-type]
    expected = whole(WORDS, memory)[..., CONFIG.width :]
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(whole(WORDS, memory)[..., CONFIG.width :], expected)


def test_without_a_memory_it_is_the_decoder_alone() -> None:
    whole = decoder()
    alone = whole(WORDS)
    assert alone.shape[-1] == whole.readout[0].shape[-1] and (alone[..., 32:] == 0).all()


@pytest.mark.parametrize("width, length", [(32, 8), (64, 24), (64, 512), (768, 64), (768, 2048)])
def test_codes_of_places_are_apart(width: int, length: int) -> None:
    """From width 32 on, where the code has 8 dimensions: farther than the null component tolerates."""
    codes = place_codes(torch.arange(length), place_width(width), length)
    apart = 0.5 * torch.cdist(codes, codes).square() + 1e9 * torch.eye(length)
    assert apart.min() > 12 and codes.square().sum(-1).std() < 1e-2


def test_widths_of_codes() -> None:
    assert [place_width(width) for width in (4, 9, 12, 16, 28, 32, 64, 576)] == [2, 2, 2, 4, 6, 8, 16, 32]


@pytest.mark.parametrize("width", [8, 16, 24, 32, 48, 64, 128, 768])
@pytest.mark.parametrize("max_length", [2, 8, 64, 256, 2048])
def test_no_two_places_are_close_in_few_dimensions_either(max_length: int, width: int) -> None:
    codes = place_codes(torch.arange(max_length), place_width(width), max_length).double()
    assert (0.5 * torch.pdist(codes).square()).min() > 6, "nats"


def test_codes_of_wide_vectors_are_those_of_saved_runs() -> None:
    """Waves of 2 to 2 * 256 tokens, each longer than the one before by the same factor."""
    place, waves = torch.arange(256)[:, None], 8
    angles = math.pi * place / 256 ** (torch.arange(waves) / (waves - 1))
    close(place_codes(place[:, 0], 16, 256), 3 * torch.cat([angles.sin(), angles.cos()], -1))
