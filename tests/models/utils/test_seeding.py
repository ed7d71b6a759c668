"""Draws that leave the random state as it was, on the CPU and on GPUs."""

import pytest
import torch

from pyroformer.models.utils.seeding import forked_rng


def test_the_state_is_restored_and_the_seed_decides_the_draws() -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    with pytest.raises(KeyError), forked_rng(3):
        torch.testing.assert_close(torch.rand(2), expected)
        raise KeyError
    assert torch.equal(torch.get_rng_state(), before)


def test_without_a_seed_draws_go_on_from_the_state() -> None:
    torch.manual_seed(3)
    with forked_rng():
        drawn = torch.rand(2)
    torch.testing.assert_close(torch.rand(2), drawn)


def test_a_gpu_that_is_used_later_keeps_its_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    seeds: list[int] = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeds.append)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    with forked_rng(3):
        torch.rand(1)
    assert not seeds


@pytest.mark.gpu
def test_gpus_are_seeded_and_restored() -> None:
    torch.manual_seed(1)
    expected, _ = torch.rand(2, device="cuda"), torch.manual_seed(0)
    before = torch.cuda.get_rng_state()
    with forked_rng(1):
        torch.testing.assert_close(torch.rand(2, device="cuda"), expected)
    assert torch.equal(torch.cuda.get_rng_state(), before)
