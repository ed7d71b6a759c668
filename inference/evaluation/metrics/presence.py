"""The vectors that are present in a draw, where the model has presence."""

from torch import Tensor

from ..context import BatchContext
from ..metric import CountMetric

__all__ = ["Present"]


class Present(CountMetric):
    r"""The mean number of a text's vectors that are present, :math:`\sum_i g_i`, and its share of all.

    Texts are reconstructed from those with :math:`g_i > 1/2`, which :class:`~.removal.Kept` counts. The two agree where
    the guide has decided. The prior's components count neither as present nor among the text's.
    """

    name, label = "present", "vectors present in a draw"

    def measure(self, context: BatchContext) -> dict[str, Tensor] | None:
        mixture = context.mixture
        presence = None if mixture is None else mixture.presence()
        if presence is None:
            return None
        return {"kept": presence.mean.sum(-1) - presence.always, "all": presence.always * context.mask.sum(-1)}
