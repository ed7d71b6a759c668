"""scikit-learn's conventions for an estimator, without scikit-learn."""

import importlib
import inspect
import sys
from typing import Any, TypeVar

from ...models.utils.choices import check_choice

__all__ = ["ConvergenceWarning", "Estimator", "NotFittedError", "of_sklearn"]

Self = TypeVar("Self", bound="Estimator")


class ConvergenceWarning(UserWarning):
    """EM has stopped at its last step; scikit-learn's own class of this name is used where that is imported."""


class NotFittedError(ValueError, AttributeError):
    """The estimator has not been fitted; scikit-learn's own class of this name is used where that is imported."""


class Estimator:
    """An estimator whose options are the arguments of its constructor.

    Examples:
        >>> pf.GaussianMixture(3).set_params(tol=1e-6)
        GaussianMixture(n_components=3, tol=1e-06)
    """

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The options by name."""
        return {name: getattr(self, name) for name in _names(type(self))}

    def set_params(self: Self, **options: Any) -> Self:
        """Sets options by name.

        Raises:
            ValueError: If there is none of such a name.
        """
        for name, value in options.items():
            check_choice("an option", name, _names(type(self)))
            setattr(self, name, value)
        return self

    def __repr__(self) -> str:
        defaults = inspect.signature(type(self).__init__).parameters
        own = [(name, value) for name, value in self.get_params().items() if value is not defaults[name].default]
        changed = [f"{name}={value!r}" for name, value in own if not _equal(value, defaults[name].default)]
        return f"{type(self).__name__}({', '.join(changed)})"

    def __sklearn_tags__(self) -> Any:
        """The tags that scikit-learn requires; nothing else here needs scikit-learn."""
        utils = importlib.import_module("sklearn.utils")
        return utils.Tags(
            estimator_type="density_estimator",
            target_tags=utils.TargetTags(required=False),
            input_tags=utils.InputTags(allow_nan=True),
        )


def _names(estimator: type) -> list[str]:
    """The names of the options."""
    return [name for name in inspect.signature(estimator.__init__).parameters if name != "self"]  # type: ignore[misc]


def _equal(one: object, other: object) -> bool:
    return type(one) is type(other) and isinstance(one, str | int | float) and one == other


def of_sklearn(own: type) -> Any:
    """scikit-learn's class of the same name, where somebody has imported that and may look for it."""
    return getattr(sys.modules.get("sklearn.exceptions"), own.__name__, own)
