"""The base class of the guides: parameters of its own, its model, and a posterior of the model's hyper-priors."""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, ClassVar, TypeGuard

import pyro
from jaxtyping import Bool, Int
from torch import Tensor, nn

from ..models.base import LocalModule, Model
from ..models.batch import Batch
from ..models.priors.hyperpriors import hyperpriors
from ..models.priors.roles import Prior
from ..models.serialization import Configurable
from .hyperpriors import HyperPosterior
from .posteriors import TextPosterior

__all__ = ["Guide", "check_pair", "encodes", "hyperparameters"]


class Guide(Configurable, LocalModule):
    r"""Base class of the amortized posteriors.

    A guide is called like its model and samples the same latent sites. It may read the model (its sizes, its priors)
    but does not own it: of the model's parameters, only those of a network that both use are the guide's too. The
    model's hyper-priors are drawn before ``forward``, from posteriors of their own, so that guide and model read the
    same prior.

    ``forward(batch)`` is enough for training, bounds and sampling. Reconstructions, plots and edits of texts also need
    :meth:`encode`. A subclass may name the class of its models as ``model_class``.

    Raises:
        ValueError: If the model is of another class.

    Examples:
        >>> class Same(Guide):
        ...     def __init__(self, model):
        ...         super().__init__(model)
        ...         self.mean = torch.nn.Parameter(torch.zeros(4))
        ...     def forward(self, batch):
        ...         with self.model.texts(batch):
        ...             pyro.sample("z", pyro.distributions.Normal(self.mean, 1.0).to_event(1))
        >>> from pyroformer.models.transformer.config import TransformerConfig
        >>> network = TransformerConfig(vocabulary=20, max_length=8, width=16, layers=1, heads=2)
        >>> guide = Same(pf.DELLA(network, structure="single", latent_size=4))
        >>> svi = pf.SVI(guide.model, guide, torch.optim.Adam, lr=0.01)
        >>> svi.step(pf.Batch.pad([[5, 6, 2], [7, 2]])) > 0
        True
    """

    model_class: ClassVar[type[Model]] = Model

    def __init__(self, model: Model) -> None:
        super().__init__()
        if not isinstance(model, self.model_class):
            raise ValueError(
                f"{type(self).__name__} is a guide of {self.model_class.__name__}, not of {type(model).__name__}: "
                "build a model of that class, or take the guide of this one."
            )
        self._owner = (model,)  # a tuple keeps the model from being registered as a child
        self.hyperpriors = HyperPosterior(model) if any(hyperpriors(model)) else None
        for prior in _seeing(model):
            prior.set_guide(self)

    @classmethod
    def check_new(cls, model: Model, options: Mapping[str, Any]) -> None:
        """Raises a ValueError if an option of a new guide would have no effect; saved guides may have one."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with self.set_hyperparameters(drawn=True):
            return super().__call__(*args, **kwargs)

    @contextmanager
    def set_hyperparameters(self, drawn: bool = False) -> Iterator[None]:
        """A context in which the hyper-priors have values: draws of their posterior if ``drawn``, or its medians.

        Inside another such context, the values of the outer one stay.
        """
        context = self.model._pyro_context
        if self.hyperpriors is None or context.active:
            yield
            return
        values = self.hyperpriors() if drawn else self.hyperpriors.medians()
        with pyro.settings.context(module_local_params=True), context:
            for site, value in values.items():
                context.set(site, value)
            yield

    def encode(self, batch: Batch) -> TextPosterior:
        """The posterior of each text of an observed batch, with no site drawn.

        Raises:
            ValueError: If the guide does not define it, or the batch is unobserved.
        """
        raise ValueError(no_encode(self))

    @property
    def model(self) -> Model:
        """The model that it is a guide of; a subclass may annotate its class."""
        return self._owner[0]

    def observed(self, batch: Batch) -> tuple[Int[Tensor, "B T"], Bool[Tensor, "B T"]]:
        """Tokens and mask of a batch.

        Raises:
            ValueError: If the batch is unobserved.
        """
        if batch.tokens is None or batch.mask is None:
            raise ValueError("the batch is unobserved: a guide needs texts. Call the model alone to sample from it.")
        return batch.tokens, batch.mask

    def texts(self, batch: Batch) -> pyro.plate:
        """The plate over the texts of ``batch``."""
        return self.model.texts(batch)


def check_pair(model: object, guide: object) -> None:
    """Raises a ValueError if a guide was made for another model than this one.

    Examples:
        >>> corpus = pf.Corpus.from_texts([f"Number {n}." for n in range(40)], vocabulary=270)
        >>> model, other = (pf.VAE.for_corpus(corpus, width=16, layers=1, heads=2) for _ in range(2))
        >>> check_pair(model, pf.VAEGuide(other))
        Traceback (most recent call last):
        ValueError: the guide was made for another VAE than this model: make it again with VAEGuide(model).
    """
    if isinstance(model, Model) and isinstance(guide, Guide) and guide.model is not model:
        if type(guide.model) is not type(model):
            raise ValueError(
                f"the guide is a {type(guide).__name__} of the model {type(guide.model).__name__}, and the model is of "
                f"the class {type(model).__name__}: give a guide that was made for this one."
            )
        raise ValueError(
            f"the guide was made for another {type(guide.model).__name__} than this model: make it again with "
            f"{type(guide).__name__}(model)."
        )
    if isinstance(model, Model) and isinstance(guide, Guide):
        for prior in _seeing(model):
            if prior.guide is not guide:
                raise ValueError(
                    f"the prior {type(prior).__name__} sees another {type(prior.guide).__name__} of this model, made "
                    "later: take that one, or call prior.set_guide(guide)."
                )


def _seeing(model: nn.Module) -> Iterator[Prior]:
    """The priors of a model that see its guide."""
    return (part for part in model.modules() if isinstance(part, Prior) and part.sees_guide)


def hyperparameters(guide: nn.Module | None, drawn: bool = False) -> AbstractContextManager[None]:
    """The context of :meth:`Guide.set_hyperparameters`; nothing for a module that is no :class:`Guide`."""
    return guide.set_hyperparameters(drawn) if isinstance(guide, Guide) else nullcontext()


def encodes(guide: nn.Module | None) -> TypeGuard[Guide]:
    """Whether a guide defines ``encode``; one with ``forward`` alone trains, evaluates and samples.

    Examples:
        >>> encodes(nn.Linear(2, 2))
        False
    """
    return getattr(type(guide), "encode", Guide.encode) is not Guide.encode


def no_encode(guide: nn.Module) -> str:
    """The message for a guide that does not define ``encode``."""
    name = type(guide).__name__
    return f"the guide {name} has no encode(batch), which this needs: define it, as docs/own_guide.md shows."
