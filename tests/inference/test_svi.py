"""SVI: the optimizers and losses of Pyro and torch, on modules that keep their parameters to themselves."""

import inspect
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pyro.optim
import pytest
import torch
from pyro import poutine
from pyro.contrib.gp.kernels import RBF
from pyro.infer import (
    JitTrace_ELBO,
    RenyiELBO,
    ReweightedWakeSleep,
    Trace_ELBO,
    Trace_MMD,
    TraceEnum_ELBO,
    TraceGraph_ELBO,
    TraceMeanField_ELBO,
    TraceTailAdaptive_ELBO,
    TraceTMC_ELBO,
)
from pyro.infer.autoguide import AutoNormal
from pyro.nn import PyroModule, PyroParam
from torch import Tensor, nn

from pyroformer.guides.vae import VAEGuide
from pyroformer.inference.objectives.elbo import ELBO
from pyroformer.inference.svi import SVI
from pyroformer.models.attention.mixture import Mixture
from pyroformer.models.batch import Batch
from pyroformer.models.local_params import LocalModule
from pyroformer.models.mixture_attention.model import MixtureAttention
from pyroformer.models.transformer.config import TransformerConfig
from pyroformer.models.vae import VAE

DATA = torch.linspace(2.0, 4.0, 20)
LOSSES: dict[str, Callable[[], pyro.infer.ELBO]] = {
    "Trace": Trace_ELBO,
    "TraceMeanField": TraceMeanField_ELBO,
    "TraceEnum": lambda: TraceEnum_ELBO(max_plate_nesting=1, strict_enumeration_warning=False),
    "TraceGraph": TraceGraph_ELBO,
    "TraceTMC": lambda: TraceTMC_ELBO(max_plate_nesting=1, strict_enumeration_warning=False),
    "Renyi": lambda: RenyiELBO(num_particles=8, vectorize_particles=True, max_plate_nesting=1),
    "ReweightedWakeSleep": lambda: ReweightedWakeSleep(num_particles=8, vectorize_particles=True, max_plate_nesting=1),
    "Trace_MMD": lambda: Trace_MMD(RBF(1), mmd_scale=10, num_particles=8, max_plate_nesting=1),
    "TraceTailAdaptive": lambda: TraceTailAdaptive_ELBO(num_particles=8, vectorize_particles=True, max_plate_nesting=1),
}


class Model(LocalModule):
    """z ~ N(shift, 1) and x ~ N(z, 1): the evidence is largest where shift is the mean of x."""

    def __init__(self) -> None:
        super().__init__()
        self.shift = nn.Linear(1, 1, bias=False)  # a plain module, of whose parameters no trace knows
        nn.init.zeros_(self.shift.weight)

    def forward(self, x: Tensor) -> None:
        z = pyro.sample("z", dist.Normal(self.shift(torch.ones(1))[0], 1.0))
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)


class Guide(LocalModule):
    def __init__(self) -> None:
        super().__init__()
        self.loc = nn.Parameter(torch.zeros(()))
        self.std = PyroParam(torch.ones(()), constraint=dist.constraints.positive)

    def forward(self, x: Tensor) -> None:
        pyro.sample("z", dist.Normal(self.loc, self.std))


class Loose(nn.Module):
    def forward(self, x: Tensor) -> None:
        pyro.sample("z", dist.Normal(pyro.param("loose", torch.zeros(())), 1.0))


@pytest.fixture(autouse=True)
def store() -> Any:
    """A global parameter store with contents of the user's, which stay as they are."""
    pyro.clear_param_store()
    value = pyro.param("of the user", torch.ones(3), constraint=dist.constraints.positive).unconstrained()
    yield
    assert list(pyro.get_param_store()) == ["of the user"]
    assert pyro.get_param_store()._params["of the user"] is value and bool((value == 0).all())
    pyro.clear_param_store()


@pytest.mark.parametrize("optimizer", ["pyro", "torch"])
@pytest.mark.parametrize("loss", LOSSES)
def test_each_loss_of_pyro_trains_model_and_guide(loss: str, optimizer: str) -> None:
    model, guide = Model(), Guide()
    how = pyro.optim.Adam({"lr": 0.2}) if optimizer == "pyro" else torch.optim.Adam
    svi = SVI(model, guide, how, LOSSES[loss](), **({} if optimizer == "pyro" else {"lr": 0.2}))
    losses = [svi.step(DATA) for _ in range(40)]
    assert 1.5 < guide.loc.item() < 4 and 1.5 < model.shift.weight.item() < 4  # from 0 towards 3
    if loss != "TraceTailAdaptive":  # Pyro defines its gradient, and no value
        assert sum(losses[-10:]) < sum(losses[:10])
        assert isinstance(svi.evaluate_loss(DATA), float)


@pytest.mark.parametrize("loss", [None, "Trace", "TraceMeanField", "TraceEnum", "TraceGraph", "TraceTMC"])
def test_a_model_of_ours(loss: str | None) -> None:
    model = VAE(TransformerConfig(vocabulary=20, max_length=8, width=8, layers=1, heads=2, dropout=0.0))
    guide = VAEGuide(model)
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    objective = None if loss is None else LOSSES[loss]()
    svi = SVI(model, guide, optimizer=pyro.optim.ClippedAdam({"lr": 1e-2}), loss=objective)
    assert svi.step(Batch.pad([[5, 6, 2], [7, 2]])) > 0
    assert any(not torch.equal(value, before[name]) for name, value in model.named_parameters())


def test_pyros_optimizer_steps_as_torchs_does() -> None:
    ends = []
    for how, options in ((torch.optim.Adam, {"lr": 0.1}), (pyro.optim.Adam({"lr": 0.1}), {})):
        torch.manual_seed(0)
        svi = SVI(Model(), Guide(), how, Trace_ELBO(), **options)
        ends.append([svi.step(DATA) for _ in range(10)])
    assert ends[0] == ends[1]


def test_options_by_parameter_name_and_a_schedule() -> None:
    names = []

    def options(name: str) -> dict[str, float]:
        names.append(name)
        return {"lr": 0.0 if name.startswith("model") else 0.1}

    model, guide = Model(), Guide()
    svi = SVI(model, guide, pyro.optim.Adam(options), Trace_ELBO())
    svi.step(DATA)
    assert names == ["model.shift.weight", "guide.loc", "guide.std_unconstrained"]
    assert model.shift.weight.item() == 0 and guide.loc.item() != 0

    scheduler = pyro.optim.ExponentialLR({"optimizer": torch.optim.SGD, "optim_args": {"lr": 0.1}, "gamma": 0.0})
    svi = SVI(model, guide, scheduler, Trace_ELBO())
    svi.step(DATA)
    scheduler.step()  # the learning rate is 0 from here on
    at = guide.loc.item()
    svi.step(DATA)
    assert guide.loc.item() == at


def test_the_baseline_of_trace_graph_is_kept_from_step_to_step() -> None:
    class Count(LocalModule):
        def __init__(self) -> None:
            super().__init__()
            self.logit = nn.Parameter(torch.zeros(()))

        def forward(self, x: Tensor) -> None:
            baseline = {"use_decaying_avg_baseline": True}
            pyro.sample("z", dist.Bernoulli(logits=self.logit), infer={"baseline": baseline})

    class Coin(LocalModule):
        def forward(self, x: Tensor) -> None:
            z = pyro.sample("z", dist.Bernoulli(0.5))
            with pyro.plate("data", len(x), dim=-1):
                pyro.sample("x", dist.Normal(3 * z, 1.0), obs=x)

    guide = Count()
    svi = SVI(Coin(), guide, torch.optim.Adam, TraceGraph_ELBO(), lr=0.1)
    for _ in range(50):
        svi.step(DATA)
    assert guide.logit.item() > 1


def test_stock_modules_are_trained_and_leave_the_store_alone() -> None:
    class Stock(PyroModule):
        def __init__(self) -> None:
            super().__init__()
            self.loc = nn.Parameter(torch.zeros(()))

        def forward(self, x: Tensor) -> None:
            pyro.sample("z", dist.Normal(self.loc, 1.0))

    guide = Stock()
    svi = SVI(Model(), guide, pyro.optim.Adam({"lr": 0.1}), Trace_ELBO())
    for _ in range(5):
        svi.step(DATA)
    assert guide.loc.item() > 0.2


@pytest.mark.parametrize(
    ("how", "options", "message"),
    [
        ((pyro.optim.Adam({"lr": 0.1}), None), {"lr": 0.1}, "lr is an option beside an optimizer of pyro.optim"),
        (
            (torch.optim.SGD([torch.zeros(1)], lr=0.1), None),
            {},
            "optimizer is a SGD: give a class, such as torch.optim",
        ),
        ((torch.optim.Adam, JitTrace_ELBO()), {}, "which compiles Pyro's global parameter store: give a Trace_ELBO"),
        (
            (torch.optim.Adam, Trace_ELBO()),
            {"optim": 3},
            "SVI with Adam has no option optim: did you mean optimizer",
        ),
        ((torch.optim.Adam, Trace_ELBO()), {"learning_rate": 3}, "no option learning_rate: Adam takes lr, betas"),
        ((torch.optim.Adam, Trace_ELBO), {}, "give an ELBO, such as pyroformer.ELBO.. or pyro.infer.Trace_ELBO"),
    ],
)
def test_what_does_not_go_together(how: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        inspect.unwrap(SVI.__init__)(object.__new__(SVI), Model(), Guide(), *how, **options)  # without type checks


def test_a_parameter_outside_modules_is_refused() -> None:
    svi = SVI(Model(), Loose(), torch.optim.Adam, Trace_ELBO(), lr=0.1)
    with pytest.raises(ValueError, match=r"calls pyro.param\('loose'\), which SVI does not train"):
        svi.step(DATA)


def test_ours_is_the_default() -> None:
    assert isinstance(SVI(Model(), Guide(), torch.optim.Adam).loss, ELBO)


@pytest.mark.filterwarnings("ignore:Found vars in model but not guide")
@pytest.mark.parametrize("loss", [TraceMeanField_ELBO, TraceGraph_ELBO])
def test_a_site_that_the_guide_does_not_draw_is_named(loss: Any) -> None:
    mixture = Mixture(torch.zeros(3).log_softmax(-1), torch.randn(3, 2), noise_variance=1.0)
    model, queries = MixtureAttention.conjugate(mixture), torch.randn(5, 2)
    guide = AutoNormal(poutine.block(model, hide=["assignment"]))
    with pyro.get_param_store().scope({"params": {}, "constraints": {}}):
        guide(queries)
    svi = SVI(model, guide, torch.optim.Adam, loss(), lr=0.1)
    message = rf"{loss.__name__} needs every latent in the guide, which does not draw 'assignment': sample it there"
    with pytest.raises(ValueError, match=message):
        svi.step(queries)
    if loss is TraceMeanField_ELBO:  # the other needs the site for gradients alone
        with pytest.raises(ValueError, match=message):
            svi.evaluate_loss(queries)
