"""The training options whose defaults depend on the model and the objective."""

from collections.abc import Mapping
from typing import Any

from ...models.base import Model
from ...models.transformer.backbone import Train
from ..objectives.registry import objective_class

__all__ = ["DEPENDENT", "FINE_TUNING", "given_options", "with_defaults"]

DEPENDENT = ("learning_rate", "num_particles")
# Training from scratch takes 2e-3, which would destroy what a backbone has learned, unless it is frozen.
FINE_TUNING: dict[Train, float] = {"all": 1e-4, "latents": 1e-3, "lora": 1e-3}


def given_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options without those that the model decides and that are None, which is as if they were not given."""
    return {name: value for name, value in options.items() if value is not None or name not in DEPENDENT}


def with_defaults(model: Model, options: Mapping[str, Any]) -> dict[str, Any]:
    """Training options, with those that the model and the objective decide, where they are not given or None.

    A model that starts from a backbone has the learning rate of fine-tuning, and the objective ``iw`` 8 draws.

    Arguments:
        model: The model to train.
        options: Fields of :class:`~pyroformer.inference.options.TrainingOptions`.

    Raises:
        ValueError: If there is no such objective.

    Examples:
        >>> corpus = pf.Corpus.from_texts([f"The number {n} is even." for n in range(0, 100, 2)], max_length=32)
        >>> model = pf.VAE.for_corpus(corpus, width=16, layers=1, heads=2)
        >>> with_defaults(model, {"objective": "iw", "learning_rate": None})
        {'objective': 'iw', 'num_particles': 8}
    """
    given = given_options(options)
    own: dict[str, Any] = {}
    if model.fine_tuned is not None:
        own["learning_rate"] = FINE_TUNING[model.fine_tuned]
    objective = given.get("objective") or model.objective
    if isinstance(objective, str) and (draws := objective_class(objective).default_particles) > 1:
        own["num_particles"] = draws
    return given | {name: value for name, value in own.items() if name not in given}
