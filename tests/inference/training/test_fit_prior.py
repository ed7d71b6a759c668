"""A second stage: the bound gets tighter, nothing but the prior changes, and what cannot be refitted says so."""

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from pyro import distributions as dist
from pyro.nn import PyroSample
from torch import Tensor
from torch.distributions import Distribution

from pyroformer.guides.nvae import NVAEGuide
from pyroformer.guides.vae import VAEGuide
from pyroformer.inference.cli.main import main
from pyroformer.inference.data.corpus import Corpus
from pyroformer.inference.objectives.elbo import ELBO
from pyroformer.inference.run import Run, load
from pyroformer.inference.runs.folder import RunFolder
from pyroformer.inference.training.fit import fit
from pyroformer.inference.training.fit_prior import _adapt_prior, fit_prior, prior_for_run
from pyroformer.inference.training.status import Status
from pyroformer.models.batch import Batch
from pyroformer.models.language_model import LanguageModel
from pyroformer.models.nvae import NVAE
from pyroformer.models.priors.hyperpriors import Hierarchical
from pyroformer.models.priors.roles import VectorPrior
from pyroformer.models.priors.sequence.autoregressive import AutoregressiveVectorPrior, IndependentVectorPrior
from pyroformer.models.priors.sequence.tokens import TokenVectorPrior
from pyroformer.models.priors.vectors import GaussianVectorPrior, MixtureVectorPrior
from pyroformer.models.transformer.mixtures.posterior import MixturePosterior
from pyroformer.models.vae import VAE

TEXTS = [f"{'One' if n % 3 else 'No'} {n % 43}." for n in range(120)]
QUICK: dict[str, Any] = {"batch_size": 16, "validations": 2}


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return Corpus.from_texts(TEXTS, vocabulary=270, max_length=16)


@pytest.fixture(scope="module")
def run(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """An autoencoder with noise, which is what the published objective makes."""
    torch.manual_seed(0)
    model = NVAE.for_corpus(corpus, base_measure="gaussian", width=16, layers=1, heads=2, dropout=0.2)
    out = tmp_path_factory.mktemp("runs") / "first"
    return fit(model, NVAEGuide(model), corpus, out=out, steps=40, learning_rate=1e-2, **QUICK)


@pytest.fixture(scope="module")
def refitted(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    out = tmp_path_factory.mktemp("runs") / "second"
    return fit_prior(run, prior_for_run(run, "autoregressive"), out=out, steps=60, learning_rate=1e-2, **QUICK)


@pytest.fixture(scope="module")
def codebook(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prior of the command line."""
    out = tmp_path_factory.mktemp("runs") / "codebook"
    options = f"--prior codebook --entries 8 --steps 1 --out {out}"
    assert main(shlex.split(f"fit-prior {run.folder.path} {options}")) == 0
    return out


def weights(run: Run) -> dict[str, Tensor]:
    return ELBO()(run.model, run.guide).state_dict()


def unchanged(before: Run, after: Run) -> bool:
    """Whether all but the base measure is the same to the bit."""
    old, new = weights(before), weights(after)
    names = [name for name in old if not name.startswith("model.base_measure.")]
    return all(torch.equal(old[name], new[name]) for name in names) and len(names) > 20


def bound(run: Run) -> Tensor:
    return run.bound(run.corpus.test[:], num_particles=1).mean()


def test_the_bound_of_held_out_texts_is_tighter(run: Run, refitted: Run) -> None:
    assert bound(refitted) > bound(run) + 10


def test_nothing_but_the_prior_has_changed(run: Run, refitted: Run) -> None:
    assert unchanged(run, refitted)
    assert isinstance(refitted.model.base_measure, AutoregressiveVectorPrior)
    assert isinstance(run.model.base_measure, GaussianVectorPrior)
    assert all(parameter.requires_grad for parameter in ELBO()(run.model, run.guide).parameters())


def test_what_is_encoded_is_written_as_before(run: Run, refitted: Run) -> None:
    texts = TEXTS[:5]
    assert refitted.reconstruct(texts) == run.reconstruct(texts)


def test_the_new_run_is_a_run(refitted: Run) -> None:
    again = load(refitted.folder.path)
    assert unchanged(refitted, again) and torch.equal(bound(refitted), bound(again))
    assert again.config["trained"] == ["model.base_measure"] and again.config["objective"]["is_bound"]
    assert again.sample(2, seed=1) == refitted.sample(2, seed=1)
    assert again.evaluate(limit=4, num_particles=1).table()


@pytest.mark.parametrize("name", ["mixture", "gaussian"])
def test_a_prior_of_one_vector_is_that_of_the_tokens(run: Run, name: str) -> None:
    new = fit_prior(run, name, steps=20, learning_rate=3e-2, **QUICK)
    base: Any = new.model.base_measure
    assert isinstance(base, IndependentVectorPrior) and isinstance(
        base.tokens, MixtureVectorPrior | GaussianVectorPrior
    )
    assert torch.equal(base.first.mean, torch.zeros(16)) and torch.equal(base.first.variance, torch.ones(16))
    assert unchanged(run, new) and bound(new) > bound(run)


def test_a_refitted_run_can_be_refitted(refitted: Run) -> None:
    new = fit_prior(refitted, "gaussian", steps=1, **QUICK)
    assert unchanged(refitted, new)


def test_a_learned_own_component_is_held(corpus: Corpus) -> None:
    model = NVAE.for_corpus(
        corpus, width=8, layers=1, heads=2, base_measure=GaussianVectorPrior(8, learnable=True), samples_per_component=2
    )
    first = fit(model, NVAEGuide(model), corpus, steps=3, learning_rate=0.1, **QUICK)
    assert model.base_measure.mean.any()
    new = fit_prior(first, prior_for_run(first, "autoregressive", heads=2), steps=2, **QUICK)
    base: Any = new.model.base_measure
    assert base.samples_per_component == 2 and torch.equal(base.first.mean, model.base_measure.mean)
    assert "model.base_measure.head" in new.config["trained"]
    assert not any(part.startswith("model.base_measure.first") for part in new.config["trained"])
    with pytest.raises(ValueError, match="first component of the prior AutoregressiveVectorPrior has another mean"):
        fit_prior(first, AutoregressiveVectorPrior(8, heads=2, samples_per_component=2), steps=1)


class Scaled(VectorPrior, Hierarchical):
    """Vectors of an unknown spread."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale = PyroSample(dist.Gamma(4.0, 4.0))
        self.register_buffer("zeros", torch.zeros(width))

    def forward(self) -> Distribution:
        distribution: Distribution = dist.Normal(self.zeros, self.scale).to_event(1)
        return distribution


def known(run: Run, site: str) -> Tensor:
    """The posterior's parameters for a hyper-prior."""
    guide: Any = run.guide
    return torch.stack(
        [part[site.replace(".", "__")] for part in (guide.hyperpriors.mean, guide.hyperpriors.log_scale)]
    )


@pytest.mark.parametrize("name", ["mixture", "autoregressive"])
def test_what_is_known_of_a_hyper_prior_stays_with_the_own_component(corpus: Corpus, name: str) -> None:
    torch.manual_seed(0)
    model = NVAE.for_corpus(corpus, width=8, layers=1, heads=2, base_measure=Scaled(8))
    first = fit(model, NVAEGuide(model), corpus, steps=3, learning_rate=0.1, objective="elbo", **QUICK)
    given = {"heads": 2} if name == "autoregressive" else {}
    second = fit_prior(first, prior_for_run(first, name, **given), steps=2, **QUICK)
    third = fit_prior(second, "gaussian", steps=1, **QUICK)
    for again in (second, third):
        assert torch.equal(known(again, "base_measure.first.scale"), known(first, "base_measure.scale"))
    assert not any("hyperpriors" in part for part in second.config["trained"])
    with pytest.raises(ValueError, match="first component of the prior AutoregressiveVectorPrior has another mean"):
        fit_prior(first, AutoregressiveVectorPrior(8, heads=2), steps=1)


@pytest.mark.parametrize(
    "family", [(VAE, VAEGuide, "base_measure.scale"), (NVAE, NVAEGuide, "base_measure.tokens.scale")]
)
def test_a_prior_that_is_all_hyper_prior_is_learned_through_its_posterior(corpus: Corpus, family: Any) -> None:
    make, guided, site = family
    model = make.for_corpus(corpus, base_measure="gaussian", width=8, layers=1, heads=2)
    first = fit(model, guided(model), corpus, steps=3, objective="elbo", **QUICK)
    start = known(fit_prior(first, Scaled(8), steps=1, learning_rate=1e-9, **QUICK), site)
    new = fit_prior(first, Scaled(8), steps=3, learning_rate=0.1, **QUICK)
    assert new.config["trained"] == ["guide.hyperpriors"]
    assert (known(new, site) - start).abs().min() > 0.05
    assert unchanged(first, new)


def test_a_run_that_was_cut_goes_on_to_the_same_weights(run: Run, tmp_path: Path) -> None:
    options: dict[str, Any] = {"steps": 6, "batch_size": 16, "validations": 2}
    whole = fit_prior(run, "autoregressive", out=tmp_path / "whole", **options)

    class Cut(Exception):
        pass

    def cut(status: Status) -> None:
        if status.split == "train" and status.step >= 6:
            raise Cut

    with pytest.raises(Cut):
        fit_prior(run, "autoregressive", out=tmp_path / "cut", callback=cut, **options)
    assert RunFolder(tmp_path / "cut").step() == 3
    resumed = fit_prior(run, "autoregressive", out=tmp_path / "cut", resume=True, **options)
    assert all(torch.equal(value, weights(resumed)[name]) for name, value in weights(whole).items())
    with pytest.raises(ValueError, match=r"trains model.base_measure, not everything: freeze what that run freezes"):
        model: Any = load(tmp_path / "cut")
        fit(model.model, model.guide, model.corpus, out=tmp_path / "cut", resume=True, objective="elbo", **options)


def test_a_second_stage_goes_on_from_its_own_first_stage_alone(corpus: Corpus, tmp_path: Path) -> None:
    def first(seed: int) -> Run:
        torch.manual_seed(seed)
        model = NVAE.for_corpus(corpus, base_measure="gaussian", width=8, layers=1, heads=2)
        return fit(model, NVAEGuide(model), corpus, steps=1, **QUICK)

    mine, other = first(0), first(1)
    fit_prior(mine, "mixture", out=tmp_path, steps=1, **QUICK)
    message = "has other frozen weights than these: resume it from the run that it began with"
    with pytest.raises(ValueError, match=message):
        fit_prior(other, "mixture", out=tmp_path, resume=True, steps=2, **QUICK)
    assert unchanged(mine, fit_prior(mine, "mixture", out=tmp_path, resume=True, steps=2, **QUICK))


def test_what_is_held_drops_no_activations(run: Run) -> None:
    modes = []

    class Watched(NVAEGuide):
        def encode(self, batch: Batch) -> MixturePosterior:
            modes.append((self.model.base_measure.training, self.training, self.encoder.training))
            return super().encode(batch)

    model: Any = run.model
    watched = Watched(model)
    watched.load_state_dict(run.guide.state_dict())  # type: ignore[union-attr]
    fit_prior(Run(model, watched, run.corpus, run.folder, run.config, 0), "autoregressive", steps=2, **QUICK)
    training, looking = (True, False, False), (False, False, False)
    assert modes == [training, looking] * 2, "only the prior drops activations, and only in training"


BAD: list[tuple[Any, dict[str, Any], str]] = [
    (
        MixtureVectorPrior(3),
        {},
        r"prior MixtureVectorPrior gave event shape \(3,\), expected \(16,\): return a distribution over one vector",
    ),
    (
        AutoregressiveVectorPrior(8),
        {},
        r"prior AutoregressiveVectorPrior gave event shape \(3, 8\), expected \(3, 16\)",
    ),
    (
        AutoregressiveVectorPrior(16, samples_per_component=2),
        {},
        "samples_per_component is 1, but 2 of base_measure: give both the same",
    ),
    (
        GaussianVectorPrior(16),
        {},
        "the prior GaussianVectorPrior has nothing to learn: give one with parameters, or learnable=True",
    ),
    ("autoregresive", {}, r"prior is 'autoregresive': choose one of codebook, .* \(did you mean autoregressive\?\)"),
    (
        "nowhere.Prior",
        {},
        r"prior is 'nowhere.Prior', which cannot be imported \(ModuleNotFoundError: .*\): choose one",
    ),
    (
        "my_broken.Prior",
        {},
        r"prior is 'my_broken.Prior', which cannot be imported \(RuntimeError: no GPU\): choose one",
    ),
    ("torch.nn.Identity", {}, "prior is 'torch.nn.Identity', which is no prior: name a class that derives from Vec"),
    ("tokens", {}, "prior is 'tokens': choose one of codebook, autoregressive, mixture, gaussian, an import path"),
    (
        TokenVectorPrior(16, 300),
        {},
        r"the prior of the second stage is a TokenVectorPrior, from whose Gaussians posteriors .*\. Give another prior",
    ),
    ("mixture", {"steps": 0}, "steps is 0: give a positive whole number"),
    ("mixture", {"beta": 0.5}, "beta is 0.5, but a prior is fitted by the exact bound: leave beta out"),
    ("mixture", {"objective": "nvib"}, "objective is nvib, but a prior is fitted by the exact bound"),
]


def test_a_run_whose_prior_was_trained_with_it_is_refused(run: Run) -> None:
    model = NVAE.for_corpus(run.corpus, base_measure="tokens", width=8, layers=1, heads=2)
    trained = fit(model, NVAEGuide(model), run.corpus, steps=1, progress=False)
    with pytest.raises(ValueError, match="from whose Gaussians .*Give a run with another prior, such as gaussian"):
        fit_prior(trained, "mixture", steps=1)


@pytest.mark.parametrize(("prior", "options", "message"), BAD, ids=[message[:30] for *_, message in BAD])
def test_refuses(
    run: Run, prior: Any, options: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_broken.py").write_text("raise RuntimeError('no GPU')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match=message):
        fit_prior(run, prior, **{"steps": 1} | options)


def test_a_named_prior_has_the_network_of_the_model_as_in_fit(corpus: Corpus) -> None:
    model = NVAE.for_corpus(corpus, width=18, layers=1, heads=3, base_measure="autoregressive")
    new = prior_for_run(Run(model, None, corpus, RunFolder(corpus.folder), {}, 0), "autoregressive", layers=2)
    wanted: Any = model.base_measure
    assert [str(block) for block in new.blocks] == 2 * [str(block) for block in wanted.blocks]  # type: ignore[union-attr]


def test_refuses_an_option_that_the_prior_does_not_have(run: Run) -> None:
    with pytest.raises(ValueError, match="the prior mixture has no option layers: it has components"):
        prior_for_run(run, "mixture", layers=3)


def test_refuses_what_is_no_prior(run: Run) -> None:
    with pytest.raises(ValueError, match="the prior is a Identity: give a VectorPrior or a SequencePrior"):
        _adapt_prior(run.model, torch.nn.Identity())


def test_refuses_a_folder_that_is_used(run: Run) -> None:
    with pytest.raises(ValueError, match="already holds a run"):
        fit_prior(run, "mixture", out=run.folder.path, steps=1)


def test_refuses_a_model_without_a_base_measure(corpus: Corpus) -> None:
    model = LanguageModel.for_corpus(corpus, width=8, layers=1, heads=2)
    lm = Run(model, None, corpus, RunFolder(corpus.folder), {}, 0)
    with pytest.raises(ValueError, match="LanguageModel has no base measure, so there is no prior to fit anew"):
        fit_prior(lm, steps=1)


def test_the_command_line(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "second"
    command = f"fit_prior {run.folder.path} --prior autoregressive --layers 1 --heads 2 --steps 2 --out {out}"
    assert main(shlex.split(command)) == 0
    said = capsys.readouterr().out.splitlines()
    assert re.fullmatch(
        r"fitting AutoregressiveVectorPrior, [\d,]+ parameters, to the posterior of .*; "
        "all other parameters are frozen",
        said[0],
    )
    assert said[-1] == f"best at step 2; run saved in {out}" or said[-1] == f"best at step 1; run saved in {out}"
    recipe = yaml.safe_load((out / "config.yaml").read_text())["model"]["init_args"]["base_measure"]
    assert recipe["init_args"]["layers"] == 1 and recipe["init_args"]["samples_per_component"] == 1
    assert main(["sample", str(out), "-n", "1"]) == 0
    assert json.loads(capsys.readouterr().out)["text"] is not None
    assert main(shlex.split(command)) == 1
    assert "already holds a run (step 2). Continue it with --resume" in capsys.readouterr().err
    assert main(shlex.split(f"{command} --resume --steps 5")) == 0
    assert "the learning rate goes from" in capsys.readouterr().out
    assert main(shlex.split(f"fit nvae --out {out} --resume --steps 3")) == 1
    assert (
        "trains only model.base_measure of an earlier run: go on with pyroformer fit-prior" in capsys.readouterr().err
    )
    assert main(["fit_prior", str(run.folder.path), "--steps", "1"]) == 1
    assert "fit-prior needs --out FOLDER" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--prior gaussian --layers 2", "the prior gaussian has no layers: leave it out"),
        ("--prior mixture --entries 2", "the prior mixture has no entries: give --components or none"),
        ("--prior codebook --components 2", "the prior codebook has no components: give --model_width or --layers or "),
    ],
)
def test_the_command_line_names_the_sizes_of_a_prior(
    options: str, message: str, run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(shlex.split(f"fit-prior {run.folder.path} --out {tmp_path}/new {options}")) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--prior codebook --entries 16", "--entries is 16, but {out} was begun with 8: give --entries 8, or choose"),
        ("--prior codebook", "--entries is 1024, but {out} was begun with 8: give --entries 8, or choose"),
        ("--prior mixture", "--prior is mixture, but {out} was begun with codebook: give --prior codebook, or choose"),
    ],
)
def test_a_prior_that_goes_on_is_the_one_that_was_begun(
    options: str, message: str, codebook: Path, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(shlex.split(f"fit-prior {run.folder.path} --out {codebook} --resume {options}")) == 1
    output, error = capsys.readouterr()
    assert output == "" and message.format(out=codebook) in error
