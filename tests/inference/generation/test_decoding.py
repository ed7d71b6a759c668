"""Decoding strategies, against probabilities worked out by hand."""

import pytest
import torch

from pyroformer.inference.generation.decoding import Decoding, uniforms

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
        ({"temperature": 0.0}, "temperature is 0.0: give a positive number, or greedy=True"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"top_k": -1}, "top_k is -1: give a positive whole number"),
        ({"top_p": 0.0}, "top_p is 0.0: give a probability above 0"),
        ({"top_p": 1.5}, "top_p is 1.5"),
    ],
)
def test_options_out_of_range(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Decoding(**options)  # type: ignore[arg-type]
