"""A guide or a likelihood that does not fit its model: which site, what is expected, what came."""

from collections.abc import Callable
from typing import Any

import pyro
import pytest
import torch
from pyro import distributions as dist
from pyro.infer import TraceMeanField_ELBO

from pyroformer.inference.objectives.elbo import ELBO
from pyroformer.models.local_params import LocalModule

DATA = torch.randn(4, 3)


class Gaussian(LocalModule):
    def forward(self, x: Any) -> None:
        with pyro.plate("texts", 4, dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(4, 3), 1.0).to_event(1))
            pyro.sample("text", dist.Normal(z @ torch.eye(3), 1.0).to_event(1), obs=x)


def guide(draw: Callable[[], Any]) -> Any:
    class Drawn(LocalModule):
        def forward(self, x: Any) -> None:
            with pyro.plate("texts", 4, dim=-1):
                draw()

    return Drawn()


def normal(*shape: int, event: int = 1) -> Any:
    return dist.Normal(torch.zeros(shape), 1.0).to_event(event)


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (
            lambda: None,
            r"does not draw 'z', which the model has with batch shape \(4,\) and event shape \(3,\): sample it",
        ),
        (
            lambda: pyro.sample("z", normal(4, 2)),  # at which the model itself stumbles
            r"draws 'z' with batch shape \(4,\) and event shape \(2,\), expected batch shape \(4,\) and event shape "
            r"\(3,\) as in the model: draw what the model has",
        ),
        (
            lambda: pyro.sample("z", normal(4, 3, event=2).expand([4])),
            r"draws 'z' with batch shape \(4,\) and event shape \(4, 3\), expected",
        ),
        (
            lambda: (pyro.sample("z", normal(4, 3)), pyro.sample("y", normal(4, 3))),
            r"draws 'y', and the latent sites of the model are z: give it the name of one, or infer=",
        ),
        (
            lambda: (pyro.sample("z", normal(4, 3)), pyro.sample("text", normal(4, 3))),
            r"draws 'text', which the model observes: leave it out",
        ),
    ],
)
def test_a_guide_that_does_not_fit(draw: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ELBO()(Gaussian(), guide(draw))(DATA)


def test_an_auxiliary_site_is_the_guides_own() -> None:
    def draw() -> None:
        pyro.sample("z", normal(4, 3))
        pyro.sample("own", normal(4, 3), infer={"is_auxiliary": True})

    losses = []
    for elbo in (ELBO(), TraceMeanField_ELBO()):
        torch.manual_seed(0)
        losses.append(elbo(Gaussian(), guide(draw))(DATA))
    torch.testing.assert_close(losses[0], losses[1] / len(DATA))  # Pyro's own charges the site's density too


def test_dimensions_that_are_no_plates() -> None:
    class Square(LocalModule):  # as many entries as texts: nothing else would notice
        def forward(self, x: Any) -> None:
            with pyro.plate("texts", 4, dim=-1):
                pyro.sample("text", dist.Normal(torch.zeros(4, 4), 1.0), obs=x)

    with pytest.raises(ValueError, match=r"'text' has batch shape \(4, 4\), expected \(4,\) from its plates: say with"):
        ELBO()(Square(), None)(torch.randn(4, 4))


@pytest.mark.parametrize(
    ("distribution", "message"),
    [
        (normal(4, 2, event=0), r"'text' has size 2 at dim -1 of its batch shape, expected 4, the size of the plate"),
        (normal(4, 2), r"'text' has event shape \(2,\), expected \(3,\), the shape of one that it observes"),
    ],
)
def test_a_likelihood_that_does_not_fit(distribution: Any, message: str) -> None:
    class Other(LocalModule):
        def forward(self, x: Any) -> None:
            with pyro.plate("texts", 4, dim=-1):
                pyro.sample("text", distribution, obs=x)

    with pytest.raises(ValueError, match=message):
        ELBO()(Other(), None)(DATA)


def test_an_error_of_the_models_own_stays_what_it_is() -> None:
    class Broken(LocalModule):
        def forward(self, x: Any) -> None:
            with pyro.plate("texts", 4, dim=-1):
                pyro.sample("z", normal(4, 3))
                raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        ELBO()(Broken(), guide(lambda: pyro.sample("z", normal(4, 3))))(DATA)
