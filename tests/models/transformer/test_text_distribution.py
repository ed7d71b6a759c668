"""The distribution over texts against brute force, and cached decoding against recomputation."""

import itertools
from typing import Any

import pyro
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pyroformer.models.attention.mixture import Mixture
from pyroformer.models.batch import BOS, EOS, PAD
from pyroformer.models.transformer.config import TransformerConfig
from pyroformer.models.transformer.stacks import Decoder
from pyroformer.models.transformer.text_distribution import AutoregressiveText, text_mask
from pyroformer.models.transformer.token_likelihood import TokenLikelihood

V, T = 5, 3


def decoder(memory: bool = False, max_length: int = T, vocabulary: int = V, **options: object) -> Decoder:
    options = {"width": 16, "layers": 2, "heads": 2, "dropout": 0.0, "init_std": 0.5, **options}
    return Decoder(TransformerConfig(vocabulary, max_length, **options), memory).eval()  # type: ignore[arg-type]


def mixture(*batch: int, components: int = 4, mask: bool = False) -> Mixture:
    present = torch.rand(*batch, components) < 0.7 if mask else None
    return Mixture(torch.randn(*batch, components), 2 * torch.randn(*batch, components, 16), mask=present)


def all_texts(length: int = T) -> Tensor:
    """Every text of at most so many tokens that ends, and every one of so many tokens that does not, padded to T."""
    others = [token for token in range(V) if token != EOS]
    ended = [(*t, EOS) for n in range(length) for t in itertools.product(others, repeat=n)]
    texts = ended + list(itertools.product(others, repeat=length))
    return torch.tensor([[*t, *[PAD] * (T - len(t))] for t in texts])


def greedy(logits: Tensor) -> Tensor:
    return logits.argmax(-1)


def greedy_without_cache(network: Decoder, tokens: Tensor, length: int, memory: Mixture | None = None) -> Tensor:
    """One text, its whole prefix computed again for every token."""
    weight, bias = network.readout
    while len(tokens) < length and EOS not in tokens:
        hidden = network(F.pad(tokens, (0, 1)), memory)[-1]
        tokens = torch.cat([tokens, F.linear(hidden, weight, bias).argmax()[None]])
    return tokens


@pytest.mark.parametrize("memory", [False, True])
def test_probabilities_of_all_texts_sum_to_one(memory: bool) -> None:
    d = AutoregressiveText(decoder(memory), mixture() if memory else None)
    texts = all_texts()
    assert len(texts.unique(dim=0)) == len(texts) == 1 + 4 + 16 + 64
    total = d.log_prob(texts).exp().sum()
    torch.testing.assert_close(total, torch.tensor(1.0), atol=1e-5, rtol=0)


@pytest.mark.parametrize("cut", [1, 2])
def test_a_mask_cuts_texts_and_the_sum_stays_one(cut: int) -> None:
    d = AutoregressiveText(decoder(), mask=torch.arange(T) < cut)
    total = d.log_prob(all_texts(cut)).exp().sum()
    torch.testing.assert_close(total, torch.tensor(1.0), atol=1e-5, rtol=0)
    assert (d.sample((50,))[:, cut:] == PAD).all()


class Cold(AutoregressiveText):
    """With another distribution of the tokens, and an argument of its own."""

    def __init__(self, network: Decoder, memory: Mixture | None = None, temperature: float = 0.5) -> None:
        super().__init__(network, memory)
        self.temperature = temperature

    def token_likelihood(self, hidden: Tensor, mask: Tensor | None = None) -> TokenLikelihood:
        return super().token_likelihood(hidden / self.temperature, mask)


@pytest.mark.parametrize("kind", [AutoregressiveText, Cold])
def test_samples_occur_as_often_as_log_prob_says(kind: type[AutoregressiveText]) -> None:
    torch.manual_seed(1)
    d = kind(decoder(memory=True), mixture()).expand([])
    texts = all_texts()
    n = 5000
    samples = d.sample((n,))
    code = V ** torch.arange(T)
    counts = torch.stack([(samples @ code == text @ code).sum() for text in texts])
    assert counts.sum() == n
    p = d.log_prob(texts).exp()
    std = (counts - n * p) / (n * p * (1 - p)).sqrt().clamp(min=1)
    assert std.abs().max() < 5


@pytest.mark.parametrize("memory", [False, True])
def test_cached_decoding_equals_recomputation(memory: bool) -> None:
    network = decoder(memory, max_length=12, vocabulary=30, init_std=0.3)
    seen = mixture(6, mask=True) if memory else None
    texts = AutoregressiveText(network, seen).decode(greedy, (6,))
    for i, text in enumerate(texts):
        one = None if seen is None else _take(seen, i)
        expected = greedy_without_cache(network, torch.empty(0, dtype=torch.long), 12, one)
        assert text[: len(expected)].equal(expected) and (text[len(expected) :] == PAD).all()


@pytest.mark.parametrize("side", ["left", "right"])
def test_prompts_of_different_lengths(side: str) -> None:
    network = decoder(max_length=10, vocabulary=30, init_std=0.3, positions="sinusoidal")
    prompts = [[5, 6, 7, 8], [9], [], [10, EOS], [11, 12]]
    rows = [p + [PAD] * (4 - len(p)) if side == "right" else [PAD] * (4 - len(p)) + p for p in prompts]
    texts = AutoregressiveText(network).decode(greedy, (len(rows),), prompt=torch.tensor(rows))
    for text, prompt in zip(texts, prompts, strict=True):
        expected = greedy_without_cache(network, torch.tensor(prompt, dtype=torch.long), 10)
        assert text[: len(expected)].equal(expected) and (text[len(expected) :] == PAD).all()


def test_one_prompt_for_all() -> None:
    text = AutoregressiveText(decoder(max_length=8, vocabulary=30))
    texts = text.decode(greedy, (2, 3), prompt=torch.tensor([5, 6]))
    assert texts.shape[:2] == (2, 3) and (texts[..., :2] == torch.tensor([5, 6])).all()


def test_max_length_counts_the_prompt() -> None:
    network = decoder(max_length=8, vocabulary=30)
    never_end = lambda logits: torch.full((len(logits),), 9)  # noqa: E731
    text = AutoregressiveText(network)
    texts = text.decode(never_end, (2,), max_length=4, prompt=torch.tensor([[5, 6, 7, 8], [5, PAD, PAD, PAD]]))
    assert texts.tolist() == [[5, 6, 7, 8], [5, 9, 9, 9]]
    assert text.decode(never_end, (1,)).tolist() == [[9] * 8]
    assert text.decode(never_end, (0,)).shape == (0, 0)


def test_decoding_stops_when_all_have_ended() -> None:
    calls = []
    script = torch.tensor([[7, EOS], [EOS, 8], [9, 9]]).T

    def choose(logits: Tensor) -> Tensor:
        calls.append(logits.shape)
        return script[len(calls) - 1] if len(calls) <= 2 else torch.tensor([EOS, EOS, EOS])

    texts = AutoregressiveText(decoder(max_length=8, vocabulary=30)).decode(choose, (3,))
    assert texts.tolist() == [[7, EOS, PAD], [EOS, PAD, PAD], [9, 9, EOS]] and calls == [(3, 30)] * 3


@pytest.mark.parametrize("name", ["log_prob", "likelihood", "_hidden"])
def test_a_density_that_is_not_of_tokens_writes_nothing(name: str) -> None:
    kind: Any = type("Other", (Cold,), {name: lambda self, value: None, "__module__": "my_module"})
    with pytest.raises(ValueError, match=f"Other defines {name}, which writing token by token does not read: define"):
        kind(decoder()).sample()


def test_batch_and_padding_change_nothing() -> None:
    network = decoder(memory=True, max_length=8, vocabulary=30)
    seen = mixture(4, mask=True)
    tokens = torch.randint(3, 30, (4, 5))
    tokens[:, -1] = EOS
    tokens[1, 2:] = torch.tensor([EOS, PAD, PAD])
    together = AutoregressiveText(network, seen, length=5).log_prob(tokens)
    padded = AutoregressiveText(network, seen, mask=F.pad(text_mask(tokens, EOS), (0, 3))).log_prob(
        F.pad(tokens, (0, 3))
    )
    torch.testing.assert_close(padded, together, atol=1e-5, rtol=0)
    for i in range(4):
        alone = AutoregressiveText(network, _take(seen, i), length=5).log_prob(tokens[i])
        torch.testing.assert_close(alone, together[i], atol=1e-5, rtol=0)
    short = AutoregressiveText(network, _take(seen, 1), length=3).log_prob(tokens[1, :3])
    torch.testing.assert_close(short, together[1], atol=1e-5, rtol=0)


def test_particles_of_the_memory() -> None:
    network = decoder(memory=True)
    seen = mixture(7, 4)
    d = AutoregressiveText(network, seen, mask=torch.ones(4, T, dtype=torch.bool))
    tokens = all_texts()[:4]
    assert d.batch_shape == (7, 4) and d.sample().shape == (7, 4, T) and d.sample((2,)).shape == (2, 7, 4, T)
    expected = torch.stack([AutoregressiveText(network, _take(seen, s)).log_prob(tokens) for s in range(7)])
    torch.testing.assert_close(d.log_prob(tokens), expected, atol=1e-5, rtol=0)
    assert d.log_prob(d.sample((2,))).shape == (2, 7, 4)


def test_gradient_reaches_decoder_and_memory() -> None:
    network = decoder(memory=True)
    seen = mixture(4)
    seen.means.requires_grad_()
    seen.log_weights.requires_grad_()
    AutoregressiveText(network, seen).log_prob(all_texts()[5:9]).sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name
    assert seen.means.grad is not None and seen.log_weights.grad is not None


def test_in_a_pyro_model() -> None:
    network = decoder()
    texts = all_texts()[10:14]

    def model(tokens: Tensor | None) -> Tensor:
        with pyro.plate("num_particles", 3, dim=-2), pyro.plate("texts", 4, dim=-1):
            return pyro.sample("text", AutoregressiveText(network), obs=tokens)

    trace = pyro.poutine.trace(model).get_trace(texts)
    trace.compute_log_prob()
    expected = AutoregressiveText(network).log_prob(texts).expand(3, 4)
    torch.testing.assert_close(trace.nodes["text"]["log_prob"], expected)
    assert model(None).shape == (3, 4, T)


def test_text_mask_of_special_cases() -> None:
    tokens = torch.tensor([[EOS, EOS, PAD], [PAD, 4, EOS], [BOS, PAD, PAD]])
    assert text_mask(tokens, EOS).tolist() == [[True, False, False], [True] * 3, [True] * 3]


@pytest.mark.parametrize("text", [[4, EOS, 4], [4, V, EOS], [-1, EOS, PAD], [4, EOS, EOS]])
def test_values_are_validated(text: list[int]) -> None:
    with pytest.raises(ValueError, match="within the support"):
        AutoregressiveText(decoder()).log_prob(torch.tensor(text))


def test_wrong_lengths_are_refused() -> None:
    network = decoder()
    with pytest.raises(ValueError, match="texts of 4 tokens do not fit the decoder's max_length of 3"):
        AutoregressiveText(network, length=4)
    with pytest.raises(ValueError, match="max_length is 4, but the decoder's max_length is 3"):
        AutoregressiveText(network).decode(greedy, (1,), max_length=4)
    with pytest.raises(ValueError, match="a prompt has 3 tokens, but max_length is 2"):
        AutoregressiveText(network).decode(greedy, (1,), max_length=2, prompt=torch.tensor([[3, 4, 3]]))


def _take(memory: Mixture, index: int) -> Mixture:
    mask = None if memory.mask is None else memory.mask[index]
    return Mixture(memory.log_weights[index], memory.means[index], mask=mask)
