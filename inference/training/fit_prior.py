r"""A second stage of training, which fits the prior to the posterior of a first stage.

A posterior that reconstructs well is, over all texts, far from the simple prior that it was trained with. Draws from
that prior are then unlike the latents that the decoder was trained on, and the divergence is larger than necessary:

.. math::

    \mathrm{E}_x \mathrm{KL}(q(z \mid x) \,\|\, p(z)) = \mathrm{I}_q(x; z) + \mathrm{KL}(q(z) \,\|\, p(z)),
    \qquad q(z) = \mathrm{E}_x q(z \mid x)

The second term depends on the prior. Encoder and decoder are frozen, and the prior is fitted to the posterior's draws.
The prior is part of the model, so the bound with the new prior is as valid as with the old one.

References:
    Diagnosing and Enhancing VAE Models (Dai & Wipf, 2019), https://arxiv.org/abs/1903.05789
"""

import copy
from collections.abc import Callable
from inspect import signature
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from ...guides.hyperpriors import HyperPosterior
from ...models.base import Model
from ...models.priors.named import NAMED, named_prior
from ...models.priors.roles import BaseMeasure, SequencePrior
from ...models.priors.sequence.autoregressive import IndependentVectorPrior
from ...models.priors.vectors import check_base_measure, own_component
from ...models.serialization import from_config
from ...models.utils.choices import check_choice
from ...models.utils.seeding import forked_rng
from ..objectives.switched_off import switches_off
from ..options import TrainingOptions
from ..run import Run
from ..runs.joint_module import joint_module
from ..utils.keywords import check_options, with_options_of
from ..utils.registry import imported_class
from .fit import fit
from .status import Status

__all__ = ["PRIORS", "fit_prior", "prior_for_run", "prior_options", "second_stage"]

PRIORS = tuple(name for name, cls in NAMED.items() if not cls.starts_posteriors)
LAYERS = 2  # of a named prior that has some: it is a small network, however deep the model is
LEARNABLE = {"gaussian": {"learnable": True}}  # arguments without which a named prior has no parameters
BASE, OWN = "base_measure", "base_measure.first"  # a model's base measure, and in a new one that of own components
# Options of the objective, which is the exact bound.
FIXED = (
    *("objective", "kl_schedule", "ladder", "beta", "free_bits", "free_bits_per", "target_kl", "kl_reduction"),
    *("lambda_d", "lambda_g", "layer_weights", "keep"),
)


@with_options_of(TrainingOptions, leave_out=FIXED)
def fit_prior(
    run: Run,
    prior: BaseMeasure | str = "autoregressive",
    *,
    out: str | Path | None = None,
    resume: bool = False,
    callback: Callable[[Status], None] | None = None,
    progress: bool | None = None,
    **options: Any,
) -> Run:
    r"""A run with a new base measure, fitted to the posterior of an earlier run; all other weights are the same.

    The objective is the exact bound. If the prior has components of its own, as in an NVAE, these keep the distribution
    that the decoder was trained with: the new prior is that of the tokens' vectors.

    Arguments:
        run: The run to start from; it is not changed.
        prior: The new base measure, which is trained in place, or the name of one: ``autoregressive``, ``codebook``,
            ``mixture``, ``gaussian``, or an import path.
        out: The new run's folder; a temporary one by default.
        resume: Continue the run in ``out``.
        callback: Called about twice a second with a :class:`~pyroformer.inference.training.status.Status`.
        progress: Whether to show a progress bar on standard error; by default in a terminal and in notebooks.
        options: Fields of :class:`~pyroformer.inference.options.TrainingOptions`, such as ``steps``, except those of
            the objective.

    Returns:
        The new run, with the best weights loaded.

    Raises:
        ValueError: If the model has no base measure, the guide switches vectors off, the prior does not fit the model
            or has no parameters, an option is out of range, or ``out`` is in use.

    Examples:
        >>> corpus = pf.Corpus.from_texts([f"The number {n} is even." for n in range(0, 100, 2)], max_length=32)
        >>> model = pf.NVAE.for_corpus(corpus, base_measure="gaussian", width=16, layers=1, heads=2)
        >>> run = pf.fit(model, pf.NVAEGuide(model), corpus, steps=2, batch_size=8)
        >>> fit_prior(run, "mixture", steps=2, batch_size=8).config["trained"]
        ['model.base_measure']
    """
    for name in FIXED:
        if name in options:
            raise ValueError(f"{name} is {options[name]}, but a prior is fitted by the exact bound: leave {name} out.")
    check_options(fit_prior, options)
    settings = TrainingOptions(**options)
    model, guide = second_stage(run, prior, seed=settings.seed)
    kept: dict[str, Any] = {"out": out, "resume": resume, "callback": callback, "progress": progress}
    return fit(model, guide, run.corpus, **kept, **options | {"objective": "elbo"})


def second_stage(
    run: Run, prior: BaseMeasure | str = "autoregressive", *, seed: int = 0
) -> tuple[Model, nn.Module | None]:
    """Copies of a run's model and guide with another base measure, in which only that is trained.

    Raises:
        ValueError: If the model has no base measure, the guide switches vectors off, or the prior does not fit the
            model or has no parameters.
    """
    base = _base_measure(run.model)
    if isinstance(prior, str):
        prior = prior_for_run(run, prior, seed=seed)
    if switches_off(run.guide):
        raise ValueError(
            "the guide of the run has alpha='relu', which switches vectors off, so that there is no exact bound to fit "
            "a prior by: give a run with another alpha."
        )
    another_run = "Give a run with another prior, such as gaussian."
    for each, of, way_out in ((base, "the run", another_run), (prior, "the second stage", "Give another prior.")):
        if getattr(each, "starts_posteriors", False):
            raise ValueError(
                f"the prior of {of} is a {type(each).__name__}, from whose Gaussians posteriors start: it is trained "
                f"with the model. {way_out}"
            )
    return _with_prior(run.model, run.guide, _adapt_prior(run.model, prior))


def prior_for_run(run: Run, name: str, *, seed: int = 0, **arguments: Any) -> BaseMeasure:
    """A new prior by its name, with the blocks of a run's model as in ``fit``, or by its import path.

    Arguments:
        run: The run for which the prior is made.
        name: ``autoregressive``, ``codebook``, ``mixture``, ``gaussian``, or an import path.
        seed: Random seed of its initial weights.
        arguments: Arguments of its class, such as ``layers``.

    Raises:
        ValueError: If there is no such prior, or its class has no such argument.
    """
    base, own = _base_measure(run.model), _own_components(run.model)
    accepted = prior_options(name)
    from_run: dict[str, Any] = {
        "width": _width(base),
        "samples_per_component": own,
        "max_length": run.corpus.max_length,
    }
    from_run["first"] = copy.deepcopy(_first(base))
    for argument in arguments:
        if argument not in accepted or argument in from_run:
            choices = [option for option in accepted if option not in from_run]
            raise ValueError(f"the prior {name} has no option {argument}: it has {', '.join(choices)}.")
    arguments = {key: value for key, value in from_run.items() if key in accepted} | arguments
    with forked_rng(seed):
        if name in PRIORS:
            given = LEARNABLE.get(name, {}) | ({"layers": LAYERS} if "layers" in accepted else {}) | arguments
            prior: Any = named_prior(name, getattr(run.model, "config", None), own, arguments=given)
        else:
            prior = from_config({"class_path": name.replace(":", ".")}, trust=[name.replace(":", ".")], **arguments)
    return cast(BaseMeasure, prior)


def prior_options(name: str) -> list[str]:
    """The arguments of a prior's class, by its name or its import path.

    Raises:
        ValueError: If there is no such prior.

    Examples:
        >>> prior_options("mixture")
        ['width', 'components']
    """
    return list(signature(_prior_class(name)).parameters)


def _prior_class(name: str) -> type[BaseMeasure]:
    if name in PRIORS:
        return NAMED[name]
    if not {".", ":"} & set(name):
        check_choice("prior", name, (*PRIORS, "an import path"))
    return imported_class("prior", name, PRIORS, "my_priors.Mine", BaseMeasure, "VectorPrior or SequencePrior")


def _base_measure(model: Model) -> nn.Module:
    base = getattr(model, BASE, None)
    if not isinstance(base, nn.Module):
        raise ValueError(
            f"{type(model).__name__} has no base measure, so there is no prior to fit anew: give a run of a model with "
            "one, such as the NVAE."
        )
    return base


def _adapt_prior(model: Model, prior: Any) -> BaseMeasure:
    """The prior on the model's device, its own components distributed as those that the model was trained with.

    Raises:
        ValueError: If it does not fit.
    """
    base, own = _base_measure(model), _own_components(model)
    if not isinstance(prior, BaseMeasure):
        kind = type(prior).__name__
        raise ValueError(
            f"the prior is a {kind}: give a VectorPrior or a SequencePrior, such as AutoregressiveVectorPrior."
        )
    prior = prior.to(model.device)
    check_base_measure(prior, torch.ones(1, own + 2, dtype=torch.bool, device=model.device), _width(base), "prior")
    if own and isinstance(prior, SequencePrior):
        _check_own(base, prior)
        prior.first = copy.deepcopy(prior.first)  # freezing it must not freeze that of another model
    elif own:
        prior = IndependentVectorPrior(prior, first=copy.deepcopy(_first(base)), samples_per_component=own)
    fitted: BaseMeasure = prior
    if isinstance(fitted, SequencePrior):
        fitted.first.requires_grad_(False)
    return fitted


def _with_prior(model: Model, guide: nn.Module | None, prior: BaseMeasure) -> tuple[Model, nn.Module | None]:
    """Copies of a model and its guide with another base measure, in which only that is trained.

    Raises:
        ValueError: If it has no parameters.
    """
    fresh = type(model)(**_arguments(model, BASE), base_measure=prior)
    posterior = None if guide is None else type(guide)(model=fresh, **_arguments(guide, "model"))
    old, new = (_hyperposterior(each) for each in (guide, posterior))
    learning = set(_base_measure(fresh).parameters())
    if new is not None:
        learning |= set(new.parameters_of(BASE)) - set(new.parameters_of(OWN))
    learning = {parameter for parameter in learning if parameter.requires_grad}
    if not learning:
        kind = type(prior.tokens if isinstance(prior, IndependentVectorPrior) else prior).__name__
        raise ValueError(f"the prior {kind} has nothing to learn: give one with parameters, or learnable=True.")
    before, after = joint_module(model, guide), joint_module(fresh, posterior)
    replaced = tuple(f"{name}." for name, part in before.named_modules() if part in (_base_measure(model), old))
    kept = {name: value for name, value in before.state_dict().items() if not name.startswith(replaced)}
    after.load_state_dict(after.state_dict() | kept)
    if old is not None and new is not None:
        new.copy_from(old, _place)
    for parameter in after.parameters():
        parameter.requires_grad_(parameter in learning)
    after.to(model.device).train()
    return fresh, posterior


def _hyperposterior(guide: nn.Module | None) -> HyperPosterior | None:
    """The posterior of hyper-priors that a guide has."""
    part = getattr(guide, "hyperpriors", None)
    return part if isinstance(part, HyperPosterior) else None


def _place(site: str) -> str:
    """The site in the new model of a hyper-prior: the old base measure becomes that of the prior's own components."""
    inside = site.removeprefix(f"{BASE}.")
    return site if inside == site or site.startswith(f"{OWN}.") else f"{OWN}.{inside}"


def _arguments(recorded: Any, leave_out: str) -> dict[str, Any]:
    """Copies of a module's constructor arguments: parameters are frozen in one of the two models only."""
    return copy.deepcopy({name: value for name, value in recorded.arguments.items() if name != leave_out})


def _check_own(base: nn.Module, prior: SequencePrior) -> None:
    """Raises a ValueError if the own components of the prior have another mean or variance than those of the run."""
    old, new = (_seeded_component(each) for each in (base, prior))  # hyper-priors are drawn, from the same seed
    if not (torch.allclose(old.mean, new.mean) and torch.allclose(old.variance, new.variance)):
        raise ValueError(
            f"the first component of the prior {type(prior).__name__} has another mean or variance than the run's, "
            "which its decoder was trained with: give first=run.model.base_measure."
        )


def _seeded_component(prior: nn.Module) -> Any:
    with forked_rng(seed=0):
        return own_component(prior)


def _own_components(model: Model) -> int:
    """The number of the prior's own components: kappa in an NVAE, 0 in other models."""
    return int(getattr(model, "samples_per_component", 0))


def _first(base: nn.Module) -> Any:
    return base.first if isinstance(base, SequencePrior) else base


def _width(base: nn.Module) -> int:
    return own_component(base).event_shape[-1]
