"""What every model and guide promises, run over all of them."""

import atexit
import pickle
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pyro
import pytest
import small_bert
import torch
from other_device import NAME, other_device
from pyro import poutine
from pyro.infer import Predictive, Trace_ELBO
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from pyroformer.guides.base import Guide
from pyroformer.guides.della import DELLAGuide
from pyroformer.guides.encoders.text_encoder import TextEncoder
from pyroformer.guides.nvae import NVAEGuide
from pyroformer.guides.vae import VAEGuide
from pyroformer.inference.data.tokenizer import Tokenizer
from pyroformer.inference.objectives.elbo import ELBO
from pyroformer.inference.objectives.nvib import NVIB
from pyroformer.inference.svi import SVI
from pyroformer.models.base import Model
from pyroformer.models.batch import EOS, PAD, Batch
from pyroformer.models.della import DELLA
from pyroformer.models.language_model import LanguageModel
from pyroformer.models.nvae import NVAE
from pyroformer.models.priors.roles import BaseMeasure
from pyroformer.models.priors.sequence.autoregressive import AutoregressiveVectorPrior
from pyroformer.models.priors.sequence.codebook import CodebookVectorPrior
from pyroformer.models.priors.sequence.gaussian_tokens import GaussianTokenPrior
from pyroformer.models.priors.sequence.language_model import LanguageModelVectorPrior
from pyroformer.models.priors.sequence.tokens import TokenVectorPrior
from pyroformer.models.priors.vectors import MixtureVectorPrior
from pyroformer.models.serialization import from_config, to_config
from pyroformer.models.transformer.config import TransformerConfig
from pyroformer.models.vae import VAE

CONFIG = TransformerConfig(vocabulary=30, max_length=12, width=16, layers=2, heads=2, dropout=0.0)
BYTES = replace(CONFIG, vocabulary=259)
NO_CLOSED_FORM = (MixtureVectorPrior, AutoregressiveVectorPrior, CodebookVectorPrior, GaussianTokenPrior)
TEXTS = [[5, 6, 7, 8, EOS], [9, EOS], [10, 11, 12, EOS]]


class Pair(NamedTuple):
    model: Model
    guide: Guide | None


def nvae(
    samples_per_component: int = 1,
    base: Callable[[], BaseMeasure] | None = None,
    presence: float | None = None,
    layers: int = 0,
    decoder_layers: int = 0,
    **options: Any,
) -> Callable[[], Pair]:
    def make() -> Pair:
        model = NVAE(
            CONFIG,
            samples_per_component=samples_per_component,
            base_measure=None if base is None else base(),
            presence=presence,
            nvib_layers=layers,
            nvib_decoder_layers=decoder_layers,
        )
        guide = NVAEGuide(model, **options)
        if guide.alpha.form == "relu":
            nn.init.constant_(guide.alpha.linear.bias, 4.0)  # no vector is off, so that divergences are finite
        return Pair(model, guide)

    return make


def vae(base: Callable[[], BaseMeasure] | None = None) -> Callable[[], Pair]:
    def make() -> Pair:
        model = VAE(CONFIG, base_measure=None if base is None else base())
        return Pair(model, VAEGuide(model))

    return make


def probabilistic(**options: Any) -> TransformerConfig:
    return replace(CONFIG, attention="probabilistic", **options)


def della(
    config: TransformerConfig = CONFIG, guide: dict[str, Any] | None = None, **options: Any
) -> Callable[[], Pair]:
    def make() -> Pair:
        model = DELLA(config, latent_size=4, **options)
        return Pair(model, DELLAGuide(model, **guide or {}))

    return make


@cache
def bert() -> Path:
    """The folder of a small encoder."""
    folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder)
    return small_bert.save_bert(Path(folder))


def text_encoder() -> TextEncoder:
    """A pretrained encoder that reads the tokens of ``BYTES``."""
    return TextEncoder.from_pretrained(bert(), Tokenizer.train_kind("bytes", []))


def read_by_bert(model: type[Model], guide: type[Guide], **options: Any) -> Callable[[], Pair]:
    def make() -> Pair:
        made = model(BYTES, **options)
        return Pair(made, guide(made, encoder=text_encoder()))

    return make


PAIRS: dict[str, Callable[[], Pair]] = {
    "lm": lambda: Pair(LanguageModel(CONFIG), None),
    "lm-probabilistic": lambda: Pair(LanguageModel(probabilistic(key_components=2, null_component=True)), None),
    "lm-adapting": lambda: Pair(LanguageModel(probabilistic(key_prior="learned", key_steps=1)), None),
    "lm-student": lambda: Pair(
        LanguageModel(probabilistic(key_precision="full", key_density="student", key_distance=2)), None
    ),
    "nvae": nvae(),
    "nvae-relu": nvae(alpha="relu"),
    "nvae-quadratic": nvae(alpha="quadratic"),
    "nvae-isotropic": nvae(variance="isotropic"),
    "nvae-shared": nvae(variance="shared"),
    "nvae-kappa-3": nvae(samples_per_component=3),
    "presence-nvae-kappa-2": nvae(samples_per_component=2, presence=0.4),
    "layers-nvae-kappa-2": nvae(samples_per_component=2, layers=2, alpha="quadratic"),
    "all-layers-presence-nvae": nvae(presence=0.4, layers=1, decoder_layers=2, alpha="quadratic"),
    "vae": vae(),
    "autoregressive-vae": vae(lambda: AutoregressiveVectorPrior(16, heads=2, samples_per_component=0)),
    "nvae-mixture": nvae(base=lambda: MixtureVectorPrior(16, components=3)),
    "autoregressive-nvae-kappa-2": nvae(
        samples_per_component=2,
        base=lambda: AutoregressiveVectorPrior(16, heads=2, components=3, samples_per_component=2),
    ),
    "codebook-vae": vae(lambda: CodebookVectorPrior(16, entries=5, heads=2, samples_per_component=0)),
    "codebook-nvae": nvae(base=lambda: CodebookVectorPrior(16, entries=5, heads=2)),
    "tokens-vae": vae(lambda: TokenVectorPrior(16, 30, heads=2, layers=1, samples_per_component=0)),
    "tokens-nvae": nvae(base=lambda: TokenVectorPrior(16, 30, heads=2, layers=1, eos=EOS)),
    "language-model-vae": vae(lambda: LanguageModelVectorPrior(CONFIG, samples_per_component=0, eos=EOS)),
    "della": della(),
    "della-collapsed-upper": della(fusion="collapsed", first_layer=2),
    "della-residual-separate": della(guide={"posterior": "residual", "encoder": "separate"}, first_prior="learned"),
    "della-memory-mean": della(fusion="memory", guide={"pool": "mean"}),
    "della-film-independent": della(fusion="film", structure="independent", guide={"pool": "first"}),
    "della-embedding-single": della(fusion="embedding", structure="single"),
    "della-softmax-single": della(fusion="softmax", structure="single"),
    "della-add": della(fusion="add"),
    "della-bert": read_by_bert(DELLA, DELLAGuide, latent_size=4),
    "della-bert-single": read_by_bert(DELLA, DELLAGuide, latent_size=4, structure="single"),
    "vae-bert": read_by_bert(VAE, VAEGuide),
    "nvae-bert": read_by_bert(NVAE, NVAEGuide),
    "presence-nvae-bert-kappa-2": read_by_bert(NVAE, NVAEGuide, samples_per_component=2, presence=0.4),
}

ON_ANOTHER_DEVICE = (
    "lm",
    "lm-probabilistic",
    "lm-adapting",
    "lm-student",
    "nvae",
    "nvae-kappa-3",
    "all-layers-presence-nvae",
    "vae",
    "nvae-mixture",
    "autoregressive-nvae-kappa-2",
    "codebook-nvae",
    "tokens-nvae",
    "language-model-vae",
    "della",
    "della-memory-mean",
    "della-softmax-single",
)


@pytest.fixture(params=PAIRS)
def pair(request: pytest.FixtureRequest) -> Pair:
    torch.manual_seed(0)
    made = PAIRS[request.param]()
    for module in made:
        if module is not None:
            module.eval()
            for parameter in module.parameters():  # away from special values such as zero heads
                parameter.data.add_(0.05 * torch.randn_like(parameter))
    return made


def rebuilt(pair: Pair) -> Pair:
    """A pair made anew from the configurations; a pretrained encoder is the same one."""
    model = from_config(to_config(pair.model))
    if pair.guide is None:
        return Pair(model, None)
    guide: Guide = from_config(to_config(pair.guide, leave_out=["model"]), model=model)
    for new, old in zip(guide.modules(), pair.guide.modules(), strict=True):
        if isinstance(old, TextEncoder):
            new.load_state_dict(old.state_dict())
    return Pair(model, guide)


def terms(pair: Pair, batch: Batch) -> Any:
    torch.manual_seed(1)
    return ELBO().terms(pair.model, pair.guide, batch)


def test_guide_and_model_have_the_same_latent_sites(pair: Pair) -> None:
    latent = {
        name
        for name, site in poutine.trace(pair.model).get_trace(Batch.unobserved(2)).nodes.items()
        if site["type"] == "sample" and name not in ("text", "length", "texts")
    }
    assert latent == set(pair.model.latents)
    if pair.guide is not None:
        trace = poutine.trace(pair.guide).get_trace(Batch.pad(TEXTS))
        assert {n for n, s in trace.nodes.items() if s["type"] == "sample" and n != "texts"} == latent


def test_a_gradient_reaches_every_parameter(pair: Pair) -> None:
    objective = ELBO()(pair.model, pair.guide)
    objective(Batch.pad(TEXTS)).backward()
    dead = [n for n, p in objective.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    assert not dead


class SharedAdditions(TorchDispatchMode):
    """Additions by index in which several threads may add to one element, in an order that differs from run to run."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[int, ...]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.ops.aten.index_put.default, torch.ops.aten.index_put_.default) and args[3:] == (True,):
            index = [each for each in args[1] if each is not None and each.dtype != torch.bool]
            rows = list(zip(*(each.flatten().tolist() for each in torch.broadcast_tensors(*index)), strict=True))
            if len(rows) > len(set(rows)):
                self.found.append(tuple(args[0].shape))
        return func(*args, **(kwargs or {}))


def test_gradients_do_not_depend_on_the_order_of_threads(pair: Pair) -> None:
    objective, additions = ELBO()(pair.model, pair.guide), SharedAdditions()
    with additions:
        objective(Batch.pad(TEXTS)).backward()
    assert not additions.found


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
def test_two_threads_give_the_same_gradients_again() -> None:
    torch.manual_seed(0)
    model = VAE(replace(CONFIG, width=64), base_measure=TokenVectorPrior(64, 30, layers=1, samples_per_component=0))
    objective, batch = ELBO()(model, VAEGuide(model)), Batch.pad([[*range(4, 13), EOS]] * 64)
    found = []
    for _ in range(4):
        torch.manual_seed(1)
        objective.zero_grad()
        objective(batch).backward()
        found.append([p.grad.clone() for p in objective.parameters() if p.grad is not None])
    assert all(torch.equal(one, other) for again in found for one, other in zip(found[0], again, strict=True))


def test_terms_are_finite_and_one_a_text(pair: Pair) -> None:
    result = terms(pair, Batch.pad(TEXTS))
    for value in (result.log_likelihood, *result.kl.values()):
        assert value.shape == (3,)
        assert value.isfinite().all()


def test_padding_changes_nothing(pair: Pair) -> None:
    narrow, wide = Batch.pad(TEXTS), Batch.pad(TEXTS, padded_length=9)
    assert wide.tokens is not None
    scribbled = wide._replace(tokens=torch.where(wide.mask, wide.tokens, 17))  # type: ignore[arg-type]
    with pyro.settings.context(validate_distributions_pyro=False, validate_distributions_torch=False):
        divergences, likelihood = terms(pair, narrow).kl, log_likelihood(pair, narrow)
        for other in (wide, scribbled):
            found = terms(pair, other).kl
            for site in divergences.keys() - estimated(pair):
                # the noise of an estimate has another shape; its density is tested with the prior
                assert torch.allclose(found[site], divergences[site], atol=1e-4, rtol=1e-5)
            assert torch.allclose(likelihood, log_likelihood(pair, other), atol=1e-4, rtol=1e-5)


def estimated(pair: Pair) -> set[str]:
    """The latent sites whose divergence has no closed form, or depends on a draw."""
    own = {"vectors"} if any(isinstance(part, NO_CLOSED_FORM) for part in pair.model.modules()) else set()
    if getattr(pair.model, "nvib_layers", 0):  # the mixture of a layer depends on the draw of the one below
        first = next(site for site in pair.model.latents if site.startswith("weights_")).removeprefix("weights")
        own |= set(pair.model.latents) - {f"weights{first}", f"vectors{first}"}
    return own | {"weights"} if "presence" in pair.model.latents else own


def test_batch_composition_changes_nothing(pair: Pair) -> None:
    together = log_likelihood(pair, Batch.pad(TEXTS))
    for index, text in enumerate(TEXTS):
        assert torch.allclose(log_likelihood(pair, Batch.pad([text])), together[index : index + 1], atol=1e-4)
    swapped = log_likelihood(pair, Batch.pad(TEXTS[::-1]))
    assert torch.allclose(swapped.flip(0), together, atol=1e-4)


def log_likelihood(pair: Pair, batch: Batch) -> Tensor:
    """log p(x | z) with the posterior's mean mixture: no noise, so that shapes may differ."""
    memory = None if pair.guide is None else pair.guide.encode(batch).memory()
    return pair.model.likelihood(memory, batch.mask).log_prob(batch.tokens)


def test_fillers_weigh_nothing(pair: Pair) -> None:
    batch = Batch.pad([*TEXTS, [EOS]], padded_length=5)._replace(weight=torch.tensor([1 / 3] * 3 + [0.0]))
    objective = ELBO()(pair.model, pair.guide)
    objective(batch).backward()
    values = terms(pair, batch)
    torch.manual_seed(1)
    assert torch.allclose(objective(batch), -values.bound[:3].mean(), rtol=1e-5)


def test_state_survives_saving(pair: Pair) -> None:
    model, guide = again = rebuilt(pair)
    if guide is not None and not any(isinstance(part, TextEncoder) for part in guide.modules()):
        assert guide.encoder.embedding is model.decoder.embedding
    objective = ELBO()(model, guide)
    objective.load_state_dict(ELBO()(pair.model, pair.guide).state_dict())
    objective.eval()
    assert torch.equal(terms(again, Batch.pad(TEXTS)).bound, terms(pair, Batch.pad(TEXTS)).bound)


def test_a_pickled_pair_is_the_same_pair(pair: Pair) -> None:
    """So that joblib, multiprocessing and Ray can send it."""
    model, guide = pickle.loads(pickle.dumps((pair.model, pair.guide)))
    assert guide is None or guide.model is model
    assert torch.equal(terms(Pair(model, guide), Batch.pad(TEXTS)).bound, terms(pair, Batch.pad(TEXTS)).bound)


def test_unobserved_texts_are_sampled(pair: Pair) -> None:
    with torch.no_grad():
        texts = pair.model(Batch.unobserved(4))
    assert texts.shape[0] == 4
    for row in texts.tolist():
        ended = row.index(EOS) if EOS in row else len(row)
        assert all(token == PAD for token in row[ended + 1 :])


def test_predictive_agrees_with_itself_in_parallel(pair: Pair) -> None:
    with torch.no_grad():
        draws = Predictive(pair.model, guide=pair.guide, num_samples=3, parallel=True)(Batch.pad(TEXTS))
    assert draws["text"].shape[:2] == (3, 3) or draws["text"].shape[0] == 3


def test_the_parameter_store_stays_empty_and_training_trains_twice(pair: Pair) -> None:
    for steps in (1, 7):
        fresh, guide = rebuilt(pair)
        loss = NVIB() if fresh.objective == "nvib" and not estimated(pair) else ELBO()
        svi = SVI(fresh, guide, torch.optim.Adam, loss, lr=3e-2)
        torch.manual_seed(0)
        losses = [svi.step(Batch.pad(TEXTS)) for _ in range(steps)]
    assert sum(losses[-3:]) < sum(losses[:3])
    assert len(pyro.get_param_store()) == 0


@pytest.mark.parametrize("name", ON_ANOTHER_DEVICE)
def test_a_step_on_another_device_is_that_of_the_cpu_and_does_not_wait_for_it(name: str) -> None:
    batch, objective = Batch.pad(TEXTS), ELBO(data_size=10)(*PAIRS[name]())
    with pyro.validation_enabled(False):  # as in training
        expected = gradients(objective, batch)
        with other_device() as device:
            there = objective.to(NAME), batch.to(NAME)
            device.waits.clear()
            found = gradients(*there)
            assert device.waits == []
            assert {gradient.device.type for gradient in found.values()} == {NAME}
            on_cpu = {name: gradient.cpu() for name, gradient in found.items()}
    torch.testing.assert_close(on_cpu, expected, rtol=1e-4, atol=1e-4)  # a CPU leaves out what is certain


def gradients(objective: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """The loss and its gradients."""
    torch.manual_seed(1)
    objective.zero_grad()
    loss = objective.losses(batch)["objective"]
    loss.backward()
    return {"loss": loss.detach()} | {
        name: parameter.grad for name, parameter in objective.named_parameters() if parameter.grad is not None
    }


@pytest.mark.parametrize("name", ["lm", "nvae", "vae", "della"])
def test_stock_svi_says_what_to_use(name: str) -> None:
    pair = PAIRS[name]()
    guide = pair.guide or (lambda batch: None)
    svi = pyro.infer.SVI(pair.model, guide, pyro.optim.Adam({"lr": 1e-3}), Trace_ELBO())
    with pytest.raises(RuntimeError, match=r"take pyroformer.SVI"):
        svi.step(Batch.pad(TEXTS))


def test_double_precision_follows_the_parameters(pair: Pair) -> None:
    for module in pair:
        if module is not None:
            module.double()
    batch = Batch.pad(TEXTS)
    result = terms(pair, batch._replace(weight=batch.weight.double()))
    assert result.log_likelihood.dtype == torch.float64


@pytest.mark.parametrize("name", [name for name in PAIRS if name.startswith("nvae")])
def test_nvib_and_elbo_share_reconstruction_and_exact_divergences(name: str) -> None:
    made = PAIRS[name]()
    batch = Batch.pad(TEXTS)
    results = []
    for objective in (ELBO(), NVIB()):
        torch.manual_seed(2)
        results.append(objective.terms(made.model, made.guide, batch))
    exact, paper = results
    assert torch.equal(exact.log_likelihood, paper.log_likelihood)
    for site in exact.kl:
        assert torch.equal(exact.kl[site], paper.kl[site])
    assert set(paper.penalty) == {"weights", "vectors"}
    assert all((value >= -1e-5).all() for value in paper.penalty.values())


def test_a_guide_needs_texts() -> None:
    made = PAIRS["nvae"]()
    with pytest.raises(ValueError, match="the batch is unobserved"):
        made.guide(Batch.unobserved(2))  # type: ignore[misc]
