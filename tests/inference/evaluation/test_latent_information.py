"""Information of latents: against closed forms, against Pyro one pair of texts at a time, and where there is none."""

import json
import math
from typing import Any

import pyro
import pytest
import torch
from pyro import poutine
from pyro.nn import PyroSample
from torch import Tensor
from torch.distributions import Normal

from pyroformer.guides.della import DELLAGuide
from pyroformer.inference.data.corpus import Corpus
from pyroformer.inference.evaluation import latent_information as layers
from pyroformer.inference.evaluation.latent_information import (
    aggregated,
    derangement,
    explained_variance,
    latent_information,
    mutual_information_and_marginal_kl,
)
from pyroformer.inference.evaluation.report import Evaluation
from pyroformer.inference.objectives.elbo import ELBO
from pyroformer.inference.run import Run
from pyroformer.inference.runs.folder import RunFolder
from pyroformer.inference.svi import SVI
from pyroformer.models.batch import EOS, Batch
from pyroformer.models.della import DELLA
from pyroformer.models.priors.hyperpriors import Hierarchical
from pyroformer.models.priors.roles import LatentPrior
from pyroformer.models.transformer.config import TransformerConfig

TEXTS = [[5, 6, 7, EOS], [8, EOS], [9, 10, EOS], [11, 12, EOS], [13, 6, EOS], [5, EOS]]
CONDITIONS = [[3], [4], [3, 4], [], [4, 4], [3]]
KINDS: dict[str, dict[str, Any]] = {
    "chain": {},
    "upper": {"first_layer": 2},
    "independent": {"structure": "independent"},
    "single": {"structure": "single", "fusion": "softmax"},
    "residual": {"posterior": "residual", "first_prior": "learned"},
    "conditional": {"condition": 2},
    "conditional-residual": {"condition": 2, "posterior": "residual"},
}


def config(condition: int = 0, **options: Any) -> TransformerConfig:
    sizes = {"vocabulary": 20, "max_length": 8, "width": 16, "layers": 3, "heads": 2} | options
    return TransformerConfig(**sizes, max_condition_length=condition, dropout=0.0)


def pair(posterior: str = "full", condition: int = 0, noise: float = 0.3, **options: Any) -> tuple[DELLA, DELLAGuide]:
    """A model and a guide with random weights everywhere, in float64."""
    model = DELLA(config(condition), latent_size=4, **options)
    guide = DELLAGuide(model, posterior=posterior)  # type: ignore[arg-type]
    for parameter in dict.fromkeys([*model.parameters(), *guide.parameters()]):  # shared ones once, in one order
        parameter.data.add_(noise * torch.randn_like(parameter))
    return model.double().eval(), guide.double().eval()


def double(batch: Batch) -> Batch:
    return batch._replace(weight=batch.weight.double())


def texts(model: DELLA, rows: slice = slice(None), copies: int = 1) -> Batch:
    conditions = None if model.condition_encoder is None else CONDITIONS[rows] * copies
    return double(Batch.pad(TEXTS[rows] * copies, conditions=conditions))


class Codes(DELLAGuide):
    """A guide with a fixed reading of each text: vector number t of a table for a text that begins with token t."""

    def __init__(self, model: DELLA, table: Tensor, **options: Any) -> None:
        super().__init__(model, **options)
        self.table = table

    def read(self, batch: Batch) -> list[Tensor]:
        assert batch.tokens is not None
        return [self.table[batch.tokens[:, 0]]] * len(self.heads)


def test_a_linear_gaussian_chain_has_its_closed_form() -> None:
    """x ~ N(0, 1), z_1 = a x + noise, z_2 = b z_1 + c x + noise; the prior N(0, 1), N(d z_1, 1)."""
    a, b, c, d, sd = 0.8, 0.5, 1.2, -0.3, torch.tensor([0.7, 0.6], dtype=torch.double)
    x, e = torch.randn(1500, dtype=torch.double), torch.randn(2, 1500, dtype=torch.double)
    z1 = a * x + sd[0] * e[0]
    z2 = b * z1 + c * x + sd[1] * e[1]
    log_q = [Normal(a * x, sd[0]).log_prob(z1[:, None]), Normal(b * z1[:, None] + c * x, sd[1]).log_prob(z2[:, None])]
    log_p = [Normal(0.0, 1.0).log_prob(z1[:, None]), Normal(d * z1[:, None], 1.0).log_prob(z2[:, None])]
    parts = mutual_information_and_marginal_kl(torch.stack(log_q), torch.stack(log_p), torch.arange(1500))
    left = 1 / (1 + (a / sd[0]) ** 2)  # the variance of x given z_1
    mutual_information = torch.stack([(1 + (a / sd[0]) ** 2).log(), (1 + (c / sd[1]) ** 2 * left).log()]) / 2
    square = (b - d) ** 2 * float(a**2 + sd[0] ** 2) + c**2 + 2 * (b - d) * c * a  # E ((b - d) z_1 + c x)^2
    kl = (sd**2 - 1 - 2 * sd.log() + torch.tensor([a**2, square])) / 2
    for part, expected in zip(parts, (mutual_information, kl - mutual_information), strict=True):
        error = part.std(0) / math.sqrt(len(x))
        assert ((part.mean(0) - expected).abs() < 4 * error).all()
        assert (error < 0.1).all()


def test_two_texts_by_quadrature() -> None:
    """I(x; z) of two Gaussians, from many draws, is the integral of their Jensen-Shannon divergence."""
    means = torch.tensor([-0.8, 0.9], dtype=torch.double)
    z, own = torch.randn(40_000, dtype=torch.double) + means.repeat(20_000), torch.arange(2).repeat(20_000)
    log_q = Normal(means, 1.0).log_prob(z[:, None])[None]
    mutual_information, _ = mutual_information_and_marginal_kl(log_q, torch.zeros(1, len(z), 1), own)
    grid = torch.linspace(-12, 12, 20_001, dtype=torch.double)
    density = Normal(means, 1.0).log_prob(grid[:, None]).exp()
    expected = torch.trapezoid((density * (density / density.mean(-1, keepdim=True)).log()).mean(-1), grid)
    assert (mutual_information.mean() - expected).abs() < 4 * mutual_information.std() / math.sqrt(len(z))


def test_aggregated_multiplies_up_to_the_mixture_of_all_latents() -> None:
    log_q = torch.randn(4, 5, 7, dtype=torch.double)
    mixture = torch.stack([log_q[: number + 1].sum(0).exp().mean(-1).log() for number in range(4)])
    torch.testing.assert_close(aggregated(log_q).cumsum(0), mixture)


def test_a_density_that_does_not_depend_on_the_text_is_its_own_aggregate() -> None:
    log_p = torch.randn(3, 6, 1)
    torch.testing.assert_close(aggregated(log_p), log_p[..., 0].double(), atol=1e-12, rtol=0)
    torch.testing.assert_close(aggregated(log_p.expand(-1, -1, 9)), log_p[..., 0].double(), atol=1e-12, rtol=0)


@pytest.mark.parametrize("options", KINDS.values(), ids=KINDS)
def test_pyro_agrees_one_pair_of_texts_at_a_time(options: dict[str, Any]) -> None:
    model, guide = pair(**options)
    count, latents = len(TEXTS), model.latents
    torch.manual_seed(3)
    information = latent_information(model, guide, [texts(model)], draws=2)
    torch.manual_seed(3)
    noise = torch.randn(count, len(latents), model.latent_size)
    torch.randn(2, 1, len(latents), model.latent_size)
    others = derangement(count)

    def densities(part: Any, z: dict[str, Tensor]) -> Tensor:  # of one text's latents under each text
        sites = poutine.trace(poutine.condition(part, data=z)).get_trace(texts(model)).nodes
        return torch.stack([sites[name]["fn"].log_prob(z[name]).expand(count) for name in latents], -1)

    def likelihood(n: int, z: dict[str, Tensor]) -> Tensor:
        trace = poutine.trace(poutine.condition(model, data=z)).get_trace(texts(model, slice(n, n + 1)))
        return trace.nodes["text"]["fn"].log_prob(trace.nodes["text"]["value"]).sum()

    with torch.no_grad():
        z = [drawn(model, guide, n, noise[n]) for n in range(count)]
        log_q, log_p = (torch.stack([densities(part, each) for each in z]) for part in (guide, model))
        own_q, own_p = (x.diagonal().T for x in (log_q, log_p))
        up_to_q, up_to_p = (x.cumsum(-1).logsumexp(1) - math.log(count) for x in (log_q, log_p))
        zero = torch.zeros(count, 1, dtype=torch.double)
        of_all_q, of_all_p = (x.diff(dim=1, prepend=zero) for x in (up_to_q, up_to_p))
        kept = torch.stack([likelihood(n, z[n]) for n in range(count)])
        swapped = [[likelihood(n, z[n] | {name: z[others[n]][name]}) for name in latents] for n in range(count)]
        swapped_all = torch.stack([likelihood(n, z[others[n]]) for n in range(count)])
    exactly = {"atol": 1e-8, "rtol": 1e-8}
    torch.testing.assert_close(information.mutual_information, own_q - of_all_q, **exactly)
    torch.testing.assert_close(information.marginal_kl, of_all_q - of_all_p, **exactly)
    torch.testing.assert_close(
        information.sensitivity, kept[:, None] - torch.tensor(swapped, dtype=torch.double), **exactly
    )
    torch.testing.assert_close(information.sensitivity_all, kept - swapped_all, **exactly)
    assert information.sensitivity.abs().min() > 0
    if model.condition_encoder is None:  # the two parts are the whole divergence
        torch.testing.assert_close(information.mutual_information + information.marginal_kl, own_q - own_p, **exactly)
    else:
        assert not torch.allclose(own_p, of_all_p, atol=1e-3)


def drawn(model: DELLA, guide: DELLAGuide, n: int, noise: Tensor) -> dict[str, Tensor]:
    """The latents of one text, as the guide draws them with this noise."""
    batch, numbers = texts(model, slice(n, n + 1)), iter(noise)

    class FixedNoise(poutine.messenger.Messenger):
        def _pyro_sample(self, msg: Any) -> None:
            if msg["name"] in model.latents:
                msg["value"], msg["done"] = msg["fn"].mean + msg["fn"].stddev * next(numbers), True

    with FixedNoise():
        trace = poutine.trace(guide).get_trace(batch)
    return {name: trace.nodes[name]["value"] for name in model.latents}


@pytest.mark.parametrize("options", KINDS.values(), ids=KINDS)
def test_information_is_at_most_the_divergence_and_the_entropy_of_the_texts(options: dict[str, Any]) -> None:
    model, guide = pair(**options, noise=0.5)
    information = latent_information(model, guide, [texts(model, copies=30)], draws=2)
    assert (information.mutual_information.sum(-1) <= math.log(180) + 1e-9).all()
    surplus = information.kl.sum(-1) - information.mutual_information.sum(-1)
    assert surplus.mean() > -4 * surplus.std() / math.sqrt(180)
    below = information.mutual_information.mean(0) + 4 * information.mutual_information.std(0) / math.sqrt(180)
    assert (below > -1e-9).all() and information.mutual_information.sum(-1).mean() > 0.1


def test_the_divergence_is_that_of_the_bound() -> None:
    model, guide = pair(structure="independent")  # without latents below, no noise is in it
    kl = ELBO().terms(model, guide, texts(model)).kl
    information = latent_information(model, guide, [texts(model)], draws=2)
    torch.testing.assert_close(information.kl, torch.stack([kl[name] for name in model.latents], -1))


def test_a_perfect_code_has_the_information_of_all_texts() -> None:
    model = DELLA(config(), latent_size=4)
    guide = Codes(model, 100 * torch.randn(20, 16))
    for number, head in enumerate(guide.heads):
        torch.nn.init.zeros_(head.weight)
        torch.nn.init.constant_(head.bias[4:], -100.0)  # the narrowest posterior there is
        if number != 1:
            torch.nn.init.eye_(head.weight[:4, -16:])
    information = latent_information(model, guide, [Batch.pad([[token, EOS] for token in range(3, 20)])])
    expected = torch.tensor([math.log(17), 0.0, 0.0], dtype=torch.double).expand(17, -1)
    torch.testing.assert_close(
        information.mutual_information, expected, atol=1e-6, rtol=0
    )  # what is known adds no information
    variances = guide.table[3:, :4].var(0)
    torch.testing.assert_close(information.variance[0].float(), variances, rtol=1e-4, atol=0)
    assert (information.variance[1].abs() < 1e-6).all()


@pytest.mark.parametrize("structure", ["chain", "independent", "single"])
def test_a_posterior_that_is_the_prior_has_no_information(structure: Any) -> None:
    model, guide = collapsed(structure=structure)
    information = latent_information(model, guide, [texts(model)])
    for part in (information.kl, information.mutual_information, information.marginal_kl):
        torch.testing.assert_close(part, torch.zeros_like(part), atol=1e-8, rtol=0)


def collapsed(size: int = 4, structure: Any = "chain", **options: Any) -> tuple[DELLA, DELLAGuide]:
    """Random weights everywhere, and a posterior that is the prior, whatever the text."""
    model = DELLA(config(**options), size, structure, fusion="add", first_prior="learned")
    guide = DELLAGuide(model, posterior="residual")
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    for head in guide.heads:
        torch.nn.init.zeros_(head.weight), torch.nn.init.zeros_(head.bias)
    return model.double().eval(), guide.double().eval()


def test_a_collapsed_chain_has_no_active_unit_where_the_published_recipe_sees_most() -> None:
    model, guide = collapsed(size=32, layers=12)
    batch = double(Batch.pad([[token, EOS] for token in range(3, 20)] * 4))
    with torch.no_grad():
        trace = poutine.trace(guide).get_trace(batch)  # one path a text, as published
    published = [int((trace.nodes[name]["fn"].mean.var(0) > 0.2).sum()) for name in model.latents]
    assert published[0] == 0 and min(published[1:]) > 16, published
    information = latent_information(model, guide, [batch])
    assert information.variance.shape == (12, 32)
    assert not (information.variance > 0.01).any()


def test_explained_variance_is_that_of_the_expected_mean() -> None:
    """Averaged over many draws of the noise, shared among texts or not, against the variance without any."""
    signal = torch.randn(9, 2, dtype=torch.double)
    for texts_of_noise in (1, 9):
        noise = torch.randn(3, texts_of_noise, 20_000, 2, dtype=torch.double)
        estimates = explained_variance(signal[:, None] + 1.5 * noise * signal.abs().sqrt()[:, None])
        error = estimates.std(0) / math.sqrt(20_000)
        assert ((estimates.mean(0) - signal.var(0)).abs() < 4 * error).all()


def test_explained_variance_is_the_variance_between_texts_less_the_noise_within() -> None:
    signal, noise = torch.randn(400, 3), torch.randn(16, 400, 3)
    means = (signal + 2 * noise).double()
    corrected = means.mean(0).var(0) - means.var(0).mean(0) / 16
    torch.testing.assert_close(explained_variance(means), corrected, atol=0.02, rtol=0)
    assert (means.mean(0).var(0) - signal.var(0)).min() > 0.1  # what the correction is for
    torch.testing.assert_close(explained_variance(signal + 7 * noise[:, :1]), signal.double().var(0), atol=1e-4, rtol=0)


def test_a_decoder_that_ignores_its_latents_is_not_sensitive() -> None:
    model = DELLA(config(), latent_size=4)  # fusions start as the identity
    information = latent_information(
        model.eval(), DELLAGuide(model).eval(), [texts(model)._replace(weight=torch.ones(6))]
    )
    assert information.sensitivity.abs().max() < 1e-5 and information.sensitivity_all.abs().max() < 1e-5


def test_a_derangement_leaves_nothing_in_its_place() -> None:
    orders = [derangement(count) for count in (2, 3, 50) for _ in range(20)]
    for order in orders:
        assert order.sort().values.tolist() == list(range(len(order)))
        assert not (order == torch.arange(len(order))).any()
    assert len({tuple(order.tolist()) for order in orders[-20:]}) == 20


def test_neither_batches_nor_fillers_nor_parts_change_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    model, guide = pair()
    filler = Batch.pad([*TEXTS[4:], [EOS]])._replace(weight=torch.tensor([0.5, 0.5, 0.0], dtype=torch.double))
    torch.manual_seed(0)
    whole = latent_information(model, guide, [texts(model)])
    monkeypatch.setattr(layers, "ENTRIES", 1)
    torch.manual_seed(0)
    parts = latent_information(model, guide, [texts(model, slice(0, 3)), texts(model, slice(3, 4)), filler])
    for one, other in zip(whole, parts, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("shift", [0.0, PyroSample(pyro.distributions.Normal(0.0, 1.0))], ids=["fixed", "hyper-prior"])
def test_a_prior_of_ones_own_without_a_closed_form(shift: Any) -> None:
    """Its hyper-prior has one value in both parts and in the whole."""

    class Heavy(LatentPrior, Hierarchical):
        def __init__(self) -> None:
            super().__init__()
            self.shift = shift

        def forward(self, summary: Tensor, layer: int) -> Any:
            return pyro.distributions.StudentT(5.0, summary[..., :4] + self.shift, 1.0).to_event(1)

    model, guide = pair(latent_prior=Heavy())
    information = latent_information(model, guide, [texts(model)])
    torch.testing.assert_close(
        information.mutual_information + information.marginal_kl, information.kl, atol=1e-8, rtol=0
    )


def test_memory_does_not_grow_with_the_square_of_the_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    model, guide = pair()
    sizes, conditional = [], guide.conditional
    monkeypatch.setattr(layers, "ENTRIES", 4000)

    def watched(*args: Any) -> Any:
        result = conditional(*args)
        sizes.append(result.mean.numel())
        return result

    monkeypatch.setattr(guide, "conditional", watched)
    for copies in (10, 20):
        sizes.clear()
        latent_information(model, guide, [texts(model, copies=copies)], draws=2)
        assert max(sizes) <= 4000 < (6 * copies) ** 2 * 4


@pytest.mark.parametrize(
    ("batches", "draws", "message"),
    [
        ([], 16, "number of texts is 0: what a latent carries shows where texts differ, so give two or more"),
        ([Batch.pad([[5, EOS]])], 16, "number of texts is 1"),
        ([Batch.pad(TEXTS)], 1, "draws is 1: what noise adds to a mean shows in how two draws differ"),
    ],
)
def test_bad_arguments(batches: list[Batch], draws: int, message: str) -> None:
    model = DELLA(config(), latent_size=4)
    with pytest.raises(ValueError, match=message):
        latent_information(model, DELLAGuide(model), batches, draws)


SENTENCES = [f"{'Ones' if n % 3 else 'A few'} and {n * n * n} more." for n in range(40)]


@pytest.fixture(scope="module")
def run() -> Run:
    """A run of a few steps."""
    torch.manual_seed(0)
    corpus = Corpus.from_texts(SENTENCES, vocabulary=270, max_length=24)
    model = DELLA.for_corpus(corpus, width=16, layers=3, heads=2, latent_size=4)
    guide = DELLAGuide(model)
    run_of_steps = Run(model, guide, corpus, RunFolder(corpus.folder), {}, 10)
    svi = SVI(model, guide, torch.optim.Adam, lr=1e-2)
    for _ in range(10):
        svi.step(run_of_steps.batch(SENTENCES[:20]))
    run_of_steps.config = {
        "objective": {"name": "elbo", "is_bound": True, "kl_weights": dict.fromkeys(model.latents, 1.0)}
    }
    return run_of_steps


def measured(run: Run, **options: Any) -> Evaluation:
    return run.evaluate(SENTENCES[:20], num_particles=1, reconstructions=1, **options)


def test_an_evaluation_has_the_information_of_each_latent(run: Run) -> None:
    information = measured(run, compared=15)
    measures = ["mutual_information", "marginal_kl", "active", "sensitivity"]
    assert list(information)[-16:] == [f"{measure}{of}" for measure in measures for of in ("_z_1", "_z_2", "_z_3", "")]
    assert information.about["compared"] == 15 and information.latents == ("z_1", "z_2", "z_3")
    assert (
        information["mutual_information_z_2"].label == "mutual information of z_2 over 15 texts, at most ln 15 = 2.71"
    )
    assert 0 < nats(information, "mutual_information") <= math.log(15)
    assert nats(information, "mutual_information") == pytest.approx(
        sum(nats(information, f"mutual_information_z_{k}") for k in (1, 2, 3))
    )
    plain = json.loads(json.dumps(information.as_dict(), allow_nan=False))["metrics"]
    assert set(plain) == set(information)
    assert plain["active_z_1"]["units"]["of"]["value"] == 4 and plain["active"]["units"]["of"]["value"] == 12
    assert plain["sensitivity_z_3"]["units"]["nats/text"]["standard_error"] > 0
    assert not any(plain[measure]["is_bound"] for measure in measures)


def test_the_decoder_reads_no_text_again_unless_its_sensitivity_is_asked_for(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, likelihood = [], run.model.likelihood
    monkeypatch.setattr(run.model, "likelihood", lambda *inputs: read.append(1) or likelihood(*inputs))
    without = measured(run, compared=15, metrics=["mutual_information"])
    before = len(read)
    with_it = measured(run, compared=15, metrics=["mutual_information", "sensitivity"])
    assert len(read) - before == before + 3 + 2  # one batch, three latents
    assert nats(with_it, "mutual_information") == nats(without, "mutual_information")
    assert without.about["compared"] == measured(run, compared=15, metrics=["sensitivity"]).about["compared"] == 15


def nats(evaluation: Evaluation, name: str) -> float:
    value = evaluation[name]["nats/text"]
    assert value is not None
    return value


def test_information_is_less_than_the_divergence_of_a_trained_guide(run: Run) -> None:
    information = measured(run, metrics=["rate", "mutual_information"])
    whole, mutual = information["rate"].units["nats/text"], information["mutual_information"].units["nats/text"]
    assert mutual.value is not None and whole.value is not None and mutual.error is not None and whole.error is not None
    assert mutual.value <= whole.value + 4 * (mutual.error + whole.error)


def test_one_row_for_each_latent(run: Run) -> None:
    lines = measured(run, compared=12).table().splitlines()
    start = lines.index("") + 1
    assert lines[start].startswith(
        "by latent, in nats/text: mutual information is at most ln 12 = 2.48; over 12 of the 20 texts"
    )
    assert lines[start + 1].split("  ")[0] == "latent" and lines[start + 1].endswith("sensitivity")
    assert [line.split()[0] for line in lines[start + 2 : start + 6]] == ["z_1", "z_2", "z_3", "all"]
    assert lines[start + 6] == "" and not any("KL of z_1" in line for line in lines[start:])


def test_the_divergence_in_the_table_is_the_sum_of_its_parts(run: Run) -> None:
    evaluation = measured(run, compared=12, metrics=["kl", "compared_kl", "mutual_information", "marginal_kl"])
    for latent in ("z_1", "z_2", "z_3"):
        parts = [evaluation[f"{name}_{latent}"].value for name in ("compared_kl", "mutual_information", "marginal_kl")]
        whole, mutual, marginal = (part or 0.0 for part in parts)
        assert whole == pytest.approx(mutual + marginal, abs=1e-9) and whole != evaluation[f"kl_{latent}"]["nats/text"]


def test_the_limit_bounds_it_and_one_text_has_nothing_to_be_compared_with(run: Run) -> None:
    metrics = ["kl", "mutual_information"]
    assert measured(run, limit=7, metrics=metrics)["mutual_information_z_1"].label.endswith("ln 7 = 1.95")
    for options in ({"limit": 1}, {"compared": 1}):
        alone = measured(run, **options, metrics=metrics)
        assert "mutual_information_z_1" not in alone and "kl_z_1" in alone and "KL of z_1" in alone.table()


def test_the_seed_decides_and_batches_do_not(run: Run) -> None:
    options: list[dict[str, int]] = [{"batch_size": 20}, {"batch_size": 7}, {"seed": 1}]
    evaluations = [measured(run, metrics=["mutual_information"], **each) for each in options]
    one, batches, seed = (nats(evaluation, "mutual_information_z_2") for evaluation in evaluations)
    assert one == pytest.approx(batches, rel=1e-3) and one != seed
