"""Checks that the sites of a guide match those of its model, with messages that name site and shapes."""

import re
from typing import Any

from pyro.poutine import Trace

from .traces import drawn_by_model, sample_sites

__all__ = ["check_shapes", "check_sites", "rephrase_pyro_error"]


def check_sites(model_trace: Trace, guide_trace: Trace) -> None:
    """Checks that the guide draws every latent site of the model, with the same shape, and no other.

    Raises:
        ValueError: If the guide leaves a site out, draws one that the model does not have or observes, or one of
            another shape.
    """
    sites, drawn = sample_sites(model_trace), sample_sites(guide_trace)
    latent = {name: site for name, site in sites.items() if not site["is_observed"]}
    left_out = {name for name, site in latent.items() if site["infer"].get("_enumerate_dim") is not None}
    left_out |= set(drawn_by_model(model_trace))
    for name, site in latent.items():
        if name not in drawn and name not in left_out:
            shapes = _shapes(site)
            raise ValueError(
                f"the guide does not draw {name!r}, which the model has with {shapes}: sample it there too."
            )
    for name, site in drawn.items():
        if name in sites and name not in latent:
            raise ValueError(f"the guide draws {name!r}, which the model observes: leave it out of the guide.")
        if name not in sites and not site["infer"].get("is_auxiliary"):
            known = ", ".join(latent) or "none"
            raise ValueError(
                f"the guide draws {name!r}, and the latent sites of the model are {known}: give it the name of one, or "
                "infer={'is_auxiliary': True}."
            )
        if name in latent and _shape(site) != _shape(latent[name]):
            same = sum(_shape(site), ()) == sum(_shape(latent[name]), ())
            way_out = ".to_event() moves dimensions from one to the other" if same else "draw what the model has"
            raise ValueError(
                f"the guide draws {name!r} with {_shapes(site)}, expected {_shapes(latent[name])} as in the model: "
                f"{way_out}."
            )


def check_shapes(trace: Trace) -> None:
    """Checks that batch dimensions are plates and that observed values have the event shape of their distribution.

    Any other batch dimension would be counted as more texts.

    Raises:
        ValueError: If a site has other batch dimensions, or observes values of another shape.
    """
    for name, site in sample_sites(trace).items():
        event = _shape(site)[1]
        observed = tuple(site["value"].shape[site["value"].ndim - len(event) :])
        if site["is_observed"] and observed != event:
            raise ValueError(
                f"the site {name!r} has event shape {event}, expected {observed}, the shape of one that it observes: "
                "give the distribution of all of it."
            )
        plates = [frame.dim for frame in site["cond_indep_stack"] if frame.vectorized]
        deepest, batch = -min(plates, default=0), _shape(site)[0]
        extra = [size for size in batch[: len(batch) - deepest] if size != 1]
        if plates and extra:
            expected = batch[len(batch) - deepest :]
            raise ValueError(
                f"the site {name!r} has batch shape {batch}, expected {expected} from its plates: say with .to_event() "
                "which dimensions are parts of one draw."
            )


def rephrase_pyro_error(error: Exception) -> ValueError | None:
    """Pyro's error about a batch shape that does not fit a plate, in one line; None for any other error."""
    match = re.match(r"Shape mismatch inside plate\('(.+)'\) at site (.+) dim (-\d+), (\d+) vs (\d+)", str(error))
    if match is None:
        return None
    plate, site, dim, expected, actual = match.groups()
    return ValueError(
        f"the site {site!r} has size {actual} at dim {dim} of its batch shape, expected {expected}, the size of the "
        f"plate {plate!r}: say with .to_event() which dimensions are parts of one draw."
    )


def _shape(site: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Batch shape without leading ones, which broadcast, and event shape."""
    batch = tuple(site["fn"].batch_shape)
    while batch and batch[0] == 1:
        batch = batch[1:]
    return batch, tuple(site["fn"].event_shape)


def _shapes(site: Any) -> str:
    batch, event = _shape(site)
    return f"batch shape {batch} and event shape {event}"
