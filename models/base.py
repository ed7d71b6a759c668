"""The base class of the generative models: parameters of its own, one plate over texts, sizes by name."""

from collections.abc import Mapping
from dataclasses import fields
from inspect import signature
from typing import Any, ClassVar, TypeVar, get_args

import pyro
import torch
from jaxtyping import Bool
from torch import Tensor
from torch.distributions import Distribution

from .batch import Batch
from .local_params import LocalModule
from .priors.hyperpriors import check_drawn_once, draw_hyperpriors
from .serialization import Configurable
from .transformer.backbone import ADAPTER_RANK, Backbone, Train
from .transformer.config import TransformerConfig
from .transformer.memory import Memory
from .utils.choices import check_choice, check_known

__all__ = ["DRAWN_BY_MODEL", "NETWORK", "REGULARIZED_TO", "SWITCHES_OFF", "TEXTS", "LocalModule", "Model"]

TEXTS = "texts"  # the plate over the texts of a batch, at dim -1 in every model and guide
# Entries of the ``infer`` of a site.
DRAWN_BY_MODEL = "drawn_by_model"  # a guide leaves the site out: its posterior, given what came before, is the model's
REGULARIZED_TO = "regularized_to"  # the distribution that a regularizer compares such a site with
SWITCHES_OFF = "switches_off"  # a guide's least concentrations of weights stand for 0, as a head of alpha can give it


NETWORK = frozenset(field.name for field in fields(TransformerConfig))  # the options of a network

M = TypeVar("M", bound="Model")


class Model(Configurable, LocalModule):
    r"""Base class of the generative models.

    A model is called with a :class:`~pyroformer.Batch`, opens the plate ``texts`` at dim -1, and observes the site
    ``text``. Its sites have the same names as its guide's. The hyper-priors of its priors are drawn before ``forward``.
    :meth:`for_corpus` derives every dimension from one named ``size``.

    Examples:
        >>> from pyroformer.models.base import Model
        >>> class Count(Model):
        ...     latents = ("rate",)
        ...     def forward(self, batch):
        ...         with self.texts(batch):
        ...             rate = pyro.sample("rate", pyro.distributions.Gamma(2.0, 0.1))
        ...             length = None if batch.tokens is None else batch.lengths.float()
        ...             pyro.sample("text", pyro.distributions.Poisson(rate), obs=length)
        >>> trace = pyro.poutine.trace(Count()).get_trace(pf.Batch.pad([[5, 6, 2], [7, 2]]))
        >>> trace.nodes["text"]["value"]
        tensor([3., 2.])
    """

    latents: tuple[str, ...] = ()  # the latent sites, whose divergences KL weights scale
    network: ClassVar[dict[str, Any]] = {}  # its own defaults of the fields of TransformerConfig
    conditional: ClassVar[bool] = False  # whether it reads the conditions of a batch
    fine_tuned: Train | None = None  # which weights are trained, of a model that starts from a backbone
    sizes: ClassVar[dict[str, dict[str, Any]]] = {
        "tiny": {"width": 128, "layers": 2, "heads": 4},
        "small": {"width": 256, "layers": 4, "heads": 4},
        "base": {"width": 512, "layers": 6, "heads": 8},
    }

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with pyro.settings.context(module_local_params=True), self._pyro_context:
            draw_hyperpriors(self)  # before any plate: they are the same for all texts
            return super().__call__(*args, **kwargs)

    @classmethod
    def network_defaults(cls, options: Mapping[str, Any]) -> dict[str, Any]:
        """The model's own defaults of the fields of TransformerConfig, beside these options."""
        rotary = cls.network.get("positions") == "rotary" and options.get("attention") == "probabilistic"
        return cls.network | ({"positions": "learned"} if rotary else {})  # probabilistic attention has no rotary ones

    @classmethod
    def for_corpus(
        cls: type[M],
        corpus: Any,
        size: str = "tiny",
        *,
        backbone: Backbone | None = None,
        train: Train = "all",
        **options: Any,
    ) -> M:
        """The model of a named size that fits a corpus: its vocabulary, its max_length, its lengths.

        Arguments:
            corpus: A :class:`~pyroformer.Corpus`.
            size: ``tiny``, ``small`` or ``base``.
            backbone: Weights that its decoder starts from, such as a :class:`~pyroformer.Pretrained`; its sizes take
                precedence over ``size``.
            train: Which weights are trained: ``all``; ``latents``, those that the backbone lacks, such as the fusion of
                latents or attention to a mixture; or ``lora``, these and low-rank adapters of all linear layers, of
                ``adapter_rank`` 8 by default. The others are frozen.
            options: Fields of :class:`~.config.TransformerConfig` and arguments of the constructor; they take
                precedence over ``size``.

        Raises:
            ValueError: If the size or an option has no such name or no effect, the backbone does not fit the corpus or
                an option, the corpus has conditions and the model reads none, or there is nothing to freeze or nothing
                to train.

        Examples:
            >>> corpus = pf.Corpus.from_texts([f"number {n}" for n in range(30)], tokenizer="bytes", max_length=12)
            >>> model = pf.DELLA.for_corpus(corpus, "small", layers=2, latent_size=4)
            >>> model.config.width, model.config.layers, model.config.max_length
            (256, 2, 12)
        """
        if not hasattr(corpus, "conditional"):  # a path or a list of texts
            raise ValueError(f"corpus has type {type(corpus).__name__}: give a pf.Corpus.")
        cls.check_conditions(corpus.conditional)
        check_choice("size", size, cls.sizes)
        _check_train(train, backbone, corpus)
        if backbone is not None:
            cls.check_start(backbone, train, options)
            backbone.check_tokens(corpus)
        rest = {name: value for name, value in options.items() if name not in NETWORK}
        _check_options(cls, rest)
        config = cls.network_for(corpus, size, options, backbone, train)
        config.check_read(list(options))
        cls.check_new(config, rest)
        model = cls(config, **rest | cls.corpus_arguments(corpus, rest, backbone))
        if backbone is not None:
            model.start_from(backbone, train, len(corpus.labels))
        return model

    @classmethod
    def network_for(
        cls,
        corpus: Any,
        size: str,
        options: Mapping[str, Any],
        backbone: Backbone | None = None,
        train: Train = "all",
    ) -> TransformerConfig:
        """The network of :meth:`for_corpus`: of the corpus, the size or the backbone, and those of the options."""
        start: dict[str, Any] = {} if backbone is None else dict(backbone.sizes)
        if train == "lora":
            start["adapter_rank"] = ADAPTER_RANK
        own = {name: value for name, value in options.items() if name in NETWORK}
        options = own | {name: value for name, value in start.items() if own.get(name) is None}
        texts = ("vocabulary", "max_length", "max_condition_length")
        sizes = {name: getattr(corpus, name) for name in texts} | cls.sizes[size]
        return TransformerConfig(**{**cls.network_defaults(options), **sizes, **options})

    @classmethod
    def check_new(cls, config: TransformerConfig, options: Mapping[str, Any]) -> None:
        """Raises a ValueError if an option of a new model would have no effect; saved models may have one."""

    @classmethod
    def check_start(cls, backbone: Backbone, train: Train, options: Mapping[str, Any]) -> None:
        """Raises a ValueError if a new model with these options cannot start from a backbone.

        Its sizes and options are then in place of the defaults, so that what does not fit them is refused by the option
        that was given.
        """
        backbone.check(**{name: value for name, value in options.items() if value is not None})
        _check_adapters(train, options)

    def start_from(self, backbone: Backbone, train: Train = "all", labels: int = 0) -> None:
        """Copies the weights of a backbone, and freezes them unless all are trained; see :meth:`for_corpus`.

        Arguments:
            backbone: The weights.
            train: Which weights are trained.
            labels: The number of tokens at the end of the vocabulary that the backbone lacks.
        """
        backbone.load_into(self, labels)
        if train != "all":
            backbone.freeze(self)
        self.fine_tuned = train

    @classmethod
    def corpus_arguments(
        cls, corpus: Any, options: Mapping[str, Any], backbone: Backbone | None = None
    ) -> dict[str, Any]:
        """Defaults, for the texts of a corpus, of the constructor's arguments that are not among these options."""
        return {}

    @classmethod
    def check_conditions(cls, conditional: bool) -> None:
        """Raises a ValueError if texts have conditions, ``conditional``, that the model does not read."""
        if conditional and not cls.conditional:
            raise ValueError(
                f"{cls.__name__} does not read the conditions that the texts come with: leave the condition out, or "
                "choose a model that reads them, such as DELLA (fit della)."
            )

    def texts(self, batch: Batch) -> pyro.plate:
        """The plate over the texts of ``batch``.

        Raises:
            ValueError: If the model has hyper-priors, and runs in another plate, such as one of vectorized particles.
        """
        check_drawn_once(self)
        return pyro.plate(TEXTS, batch.weight.shape[-1], dim=-1)

    def likelihood(self, memory: Any, mask: Bool[Tensor, "*batch T"] | None = None) -> Distribution:
        """The distribution of texts given a memory, which ``forward`` observes at the site ``text``.

        Arguments:
            memory: What the decoder conditions on, or None where it conditions on nothing.
            mask: True where a text has a token; None leaves the length open.

        Raises:
            ValueError: If the model does not define it.
        """
        name = type(self).__name__
        raise ValueError(f"the model {name} has no likelihood(memory, mask), which this needs: define it.")

    def check_memory(self, memory: Memory) -> Memory:
        """The memory, if the decoder can read it; a model with latents checks its kind and size.

        Raises:
            ValueError: If it is of another kind or size.
        """
        return memory

    def interpolate(self, first: Memory, second: Memory, t: float) -> Memory:
        r"""The memory a fraction of the way from one to another; each model defines its own path.

        Arguments:
            first: The memory at t = 0.
            second: The memory at t = 1.
            t: The fraction, from 0 to 1.

        Raises:
            ValueError: If the model has no latents or defines no interpolation, or t is out of range.
        """
        name = type(self).__name__
        if not self.latents:
            raise ValueError(f"a {name} has no latents to interpolate between: choose a model with some.")
        raise ValueError(f"a {name} defines no interpolation: write interpolate(first, second, t).")

    @property
    def objective(self) -> str:
        """The default of the training option of that name."""
        return "elbo"

    @property
    def prior_sizes(self) -> dict[str, int]:
        """Sizes, beyond the network's, that fill the arguments of a prior's constructor, by name."""
        return {}

    @property
    def dimensions(self) -> dict[str, tuple[str, ...]]:
        """The names of the dimensions of a latent of one text, by site."""
        return {}

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device


def _check_options(cls: type[Model], options: Mapping[str, Any]) -> None:
    """Raises a ValueError if a model's constructor has no such option."""
    accepted = list(signature(cls.__init__).parameters)[2:]
    every = sorted(NETWORK | {*accepted, "size", "backbone", "train"})
    priors = [name for name in ("base_measure", "latent_prior") if name in accepted]
    listed = f"help({cls.__name__}) and help(pyroformer.models.TransformerConfig) list all."
    meant = {"prior": priors[0]} if priors else None
    check_known(f"{cls.__name__}.for_corpus", options, every, listed, meant)


def _check_adapters(train: Train, options: Mapping[str, Any]) -> None:
    """Raises a ValueError if adapters are to be trained, and options leave none."""
    if train != "lora":
        return
    if options.get("adapter_rank") == 0:
        raise ValueError(
            "adapter_rank is 0, which is no adapters, and train is lora, which trains them: give a rank of at least 1, "
            "or leave adapter_rank out."
        )
    if options.get("attention") == "probabilistic":
        raise ValueError(
            "train is lora, whose adapters only softmax attention has, and attention is probabilistic: train latents "
            "or all, or leave attention out."
        )


def _check_train(train: Train, backbone: Backbone | None, corpus: Any) -> None:
    """Raises a ValueError if there is nothing to freeze, or if freezing would include the embeddings of labels."""
    check_choice("train", train, get_args(Train))
    if train == "all":
        return
    if backbone is None:
        raise ValueError(f"train is {train}, and there is no backbone to freeze: give one, or leave train out.")
    if corpus.labels:
        raise ValueError(
            f"train is {train}, which freezes the embedding, where {len(corpus.labels)} labels need rows of their own: "
            "read the conditions with labels=False, or train all."
        )
