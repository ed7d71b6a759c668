"""Decoding strategies, against probabilities worked out by hand."""

from typing import Any

import pytest
import torch

from pyroformer.inference.generation.decoding import Decoding, uniforms
from pyroformer.inference.generation.inversion import inverted

P = torch.tensor([0.1, 0.4, 0.2, 0.3])


def test_defaults_draw_from_the_model() -> None:
    torch.testing.assert_close(Decoding().probabilities(P.log()), P)


def test_greedy_takes_the_most_probable() -> None:
    assert Decoding(greedy=True)(torch.stack([P, P.flip(0)]).log()).tolist() == [1, 2]


def test_temperature_by_hand() -> None:
    torch.testing.assert_close(Decoding(temperature=0.5).probabilities(P.log()), P**2 / (P**2).sum())


def test_top_k_by_hand() -> None:
    torch.testing.assert_close(Decoding(top_k=2).probabilities(P.log()), torch.tensor([0, 4 / 7, 0, 3 / 7]))
    torch.testing.assert_close(Decoding(top_k=9).probabilities(P.log()), P)


@pytest.mark.parametrize(("top_p", "kept"), [(0.39, 1), (0.41, 2), (0.69, 2), (0.71, 3), (0.91, 4), (1e-9, 1)])
def test_top_p_keeps_the_fewest_that_hold_the_share(top_p: float, kept: int) -> None:
    assert (Decoding(top_p=top_p).probabilities(P.log()) > 0).sum() == kept


def test_top_p_is_taken_of_what_top_k_left() -> None:
    # of the best two, 4/7 and 3/7, the first alone holds half
    assert Decoding(top_k=2, top_p=0.5).probabilities(P.log()).tolist() == [0, 1, 0, 0]


def test_draws_follow_the_probabilities() -> None:
    decoding = Decoding(temperature=1.3, top_k=3)
    draws = decoding(P.log().expand(100_000, -1))
    expected = decoding.probabilities(P.log())
    torch.testing.assert_close(draws.bincount(minlength=4) / 100_000, expected, atol=0.01, rtol=0)


@pytest.mark.parametrize("uniform", [0.0, 1 - 2**-24])
def test_extreme_noise_chooses_a_possible_token(uniform: float) -> None:
    logits = torch.tensor([-torch.inf, 0.0, 0.0, -torch.inf])
    assert Decoding()(logits, torch.tensor(uniform)) in (1, 2)


def test_impossible_tokens_are_never_drawn() -> None:
    logits = P.log().index_fill(0, torch.tensor([1]), -torch.inf).expand(1000, -1)
    assert not (Decoding(top_p=0.9)(logits) == 1).any()


STRATEGIES: list[dict[str, Any]] = [
    {},
    {"temperature": 0.7},
    {"top_k": 1},
    {"top_k": 40},
    {"top_k": 4000},
    {"top_p": 0.3},
    {"top_p": 0.95},
    {"top_k": 50, "top_p": 0.8, "temperature": 1.5},
]


@pytest.mark.parametrize("options", STRATEGIES)
@pytest.mark.parametrize("scale", [0.1, 3.0, 30.0])
def test_tokens_are_those_of_the_whole_table(options: dict[str, Any], scale: float) -> None:
    generator = torch.Generator().manual_seed(7)
    decoding = Decoding(**options)
    for size in (200, 4099, 20_000):
        logits = scale * torch.randn(3, 8, size, generator=generator)
        logits[..., ::7] = -torch.inf
        noise = torch.rand(3, 8, generator=generator)
        cumulative = decoding.probabilities(logits).double().cumsum(-1)
        expected = torch.searchsorted(cumulative, noise.double()[..., None] * cumulative[..., -1:], right=True)
        assert torch.equal(decoding(logits, noise), expected.squeeze(-1))


@pytest.mark.parametrize("options", [{"top_k": 10}, {"top_p": 0.6}, {"top_k": 100, "top_p": 0.5}])
def test_equally_probable_tokens_are_left_out_as_in_the_whole_table(options: dict[str, Any]) -> None:
    decoding, logits = Decoding(**options), torch.arange(20.0).repeat_interleave(250)
    noise = torch.rand(1000)
    possible = decoding.probabilities(logits) > 0
    drawn = decoding(logits.expand(1000, -1), noise).unique()
    assert possible[drawn].all() and len(drawn) > 0.9 * possible.sum()


def test_a_text_does_not_depend_on_the_nuclei_of_others() -> None:
    decoding, noise = Decoding(top_p=0.9), torch.rand(3)
    logits = torch.tensor([[6.0], [1.5], [0.0]]) * torch.randn(3, 20_000)  # nuclei of tens, thousands and most tokens
    alone = [decoding(row, uniform).item() for row, uniform in zip(logits, noise, strict=True)]
    assert decoding(logits, noise).tolist() == alone


def test_a_large_vocabulary_is_not_sorted(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = 5 * torch.randn(4, 20_000)
    monkeypatch.setattr(Decoding, "probabilities", None)
    for options in ({"top_k": 50}, {"top_p": 0.9}, {"top_p": 0.5, "top_k": 1000}):
        assert Decoding(**options)(logits).shape == (4,)  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [3, 256, 257, 4096, 5000])
def test_inversion_skips_weights_of_zero_and_reaches_every_other_one(size: int) -> None:
    weights = torch.zeros(size)
    weights[1::3] = torch.rand(len(weights[1::3])) + 0.2  # the least is 0.2 / (0.7 size / 3) of all, more than a step
    noise = torch.cat([torch.linspace(0, 1 - 2**-24, 3 * size), torch.tensor([1.0])])
    drawn = inverted(weights.expand(len(noise), -1), noise)
    assert drawn[0] == 1 and drawn[-1] == weights.nonzero().max()
    assert set(drawn.tolist()) == set(weights.nonzero().squeeze(-1).tolist())
    share = drawn.bincount(minlength=size) / len(noise)
    torch.testing.assert_close(share, weights / weights.sum(), atol=2 / len(noise), rtol=0)


def test_half_precision_logits() -> None:
    assert Decoding(top_p=0.5)(P.log().bfloat16()).shape == ()


def test_noise_belongs_to_the_item() -> None:
    together = uniforms(3, range(5), 7)
    assert torch.equal(uniforms(3, [4], 7)[0], together[4])
    assert torch.equal(uniforms(3, [4], 9)[0, :7], together[4])
    assert not torch.equal(uniforms(4, range(5), 7), together)
    assert len(together.unique()) == 35


def test_a_sampler_uses_a_column_for_each_position() -> None:
    noise = torch.tensor([[0.05, 0.95], [0.2, 0.05]])
    choose = Decoding().token_sampler(noise)
    logits = P.log().expand(2, -1)
    assert [choose(logits).tolist(), choose(logits).tolist()] == [[0, 1], [3, 0]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0.0}, r"temperature is 0.0: give 1e-30 to 1e\+30, or greedy=True"),
        ({"temperature": 1e-40}, "temperature is 1e-40: give 1e-30"),
        ({"top_p": 1e-320}, "top_p is 1e-320: give a probability from 1e-30 up to 1"),
        ({"top_k": 2.5}, "top_k is 2.5: give a whole number"),
        ({"top_k": float("nan")}, "top_k is nan: give a whole number"),
        ({"top_k": True}, "top_k is True, a bool: give a number"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"top_k": -1}, "top_k is -1: give a positive whole number"),
        ({"top_p": 0.0}, "top_p is 0.0: give a probability from 1e-30"),
        ({"top_p": 1.5}, "top_p is 1.5"),
        ({"greedy": True, "temperature": 5.0}, "temperature is 5.0, and greedy=True samples no token: leave one out"),
        ({"greedy": True, "top_k": 3}, "top_k is 3, and greedy=True samples no token"),
        ({"greedy": True, "top_p": 0.9}, "top_p is 0.9, and greedy=True samples no token"),
    ],
)
def test_options_out_of_range(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        unchecked(**options)


def unchecked(**options: Any) -> None:
    """What a constructor checks, without the tests' own checks of types."""
    decoding = object.__new__(Decoding)
    vars(decoding).update(options)
    decoding.__post_init__()
