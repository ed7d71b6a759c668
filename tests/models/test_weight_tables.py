"""Tables of weights: the same results, and anew after a change."""

import torch

from pyroformer.models.priors.sequence.language_model import LanguageModelVectorPrior
from pyroformer.models.transformer.config import TransformerConfig
from pyroformer.models.transformer.place_reader import PlaceReader
from pyroformer.models.transformer.stacks import Decoder
from pyroformer.models.utils.weight_tables import from_weights, weight_tables_kept

CONFIG = TransformerConfig(vocabulary=12, max_length=8, width=32, layers=1, heads=2)


@torch.no_grad()
def test_densities_and_logits_are_the_same_and_follow_the_weights() -> None:
    prior = LanguageModelVectorPrior(CONFIG, samples_per_component=0)
    decoder = Decoder(CONFIG, reader=PlaceReader(12, 32, 8))
    z, mask = torch.randn(3, 4, 32), torch.ones(3, 4, dtype=torch.bool)

    def measured() -> tuple[torch.Tensor, torch.Tensor]:
        return prior(mask).log_prob(z), decoder.readout[0]

    def check() -> None:
        with weight_tables_kept():
            first, again = measured(), measured()
            assert first[1] is again[1]
        for kept, before, now in zip(first, again, measured(), strict=True):
            assert torch.equal(kept, now) and torch.equal(before, now)

    check()
    with weight_tables_kept():
        before = measured()
        for weight in (prior.mean, prior.log_variance, decoder.embedding.tokens.weight):
            weight.add_(0.1)
        after = measured()
    for one, other, now in zip(before, after, measured(), strict=True):
        assert not torch.equal(one, other) and torch.equal(other, now)
    check()


def test_nothing_is_kept_with_gradients_or_of_inference_tensors() -> None:
    layer, calls = torch.nn.Linear(2, 2), []
    with weight_tables_kept():
        for _ in range(2):
            from_weights(layer, "table", lambda: calls.append(1), layer.weight)
        with torch.inference_mode():
            other = torch.nn.Linear(2, 2)
            for _ in range(2):
                from_weights(other, "table", lambda: calls.append(1), other.weight)
    assert len(calls) == 4
