"""From one number a text to the figures of an evaluation: rates, what they bound, and how they are called."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..objectives.elbo import ELBO
from .latent_information import LatentInformation
from .metrics import perplexity, ratio
from .report import Estimate, Metric

__all__ = ["LEAST_ALPHA", "Columns", "accuracies", "bounds", "components", "layers", "parts", "share", "sweep"]

Column = Float[np.ndarray, " texts"]
Columns = dict[str, Column]
LEAST_ALPHA = 0.1  # the published code removes components below it
ACTIVE = (0.01, 0.2)  # a unit's variance over texts: the usual threshold, and DELLA's


def bounds(columns: Columns, num_particles: int) -> dict[str, Metric]:
    """The bounds of log p(x), and beside them those given the length where the model has a prior of it."""
    elbo = _total(columns, ["reconstruction", *_sites(columns)])
    if "importance_weighted" not in columns:  # nothing is latent
        return {"bound": _bound("log-likelihood", elbo, columns, exact=True)}
    figures: dict[str, Metric] = {}
    weighted = {f"importance_weighted_{count}": count for count in sweep(num_particles)[:-1]}
    weighted["importance_weighted"] = num_particles
    rows = [(name, f"importance-weighted, K = {count}", columns[name]) for name, count in weighted.items()]
    for name, label, cost in [("bound", "bound, beta = 1", elbo), *rows]:
        figures[name] = _bound(label, cost, columns)
        if "kl_length" in columns and name in (
            "bound",
            "importance_weighted",
        ):  # minus log p(n), the same for every draw
            given = cost - columns["kl_length"]
            units = _nats(given, columns) | _bits(given, columns)
            figures[f"{name}_given_length"] = Metric("  given the length", units, "log p(x | n)")
    return figures


def sweep(num_particles: int) -> list[int]:
    """The numbers of draws that the importance-weighted bound is taken at: in steps of four, up to the largest.

    Examples:
        >>> sweep(64), sweep(50), sweep(1)
        ([4, 16, 64], [4, 16, 50], [1])
    """
    fewer = [4**power for power in range(1, 16) if 4**power < num_particles]
    return [*fewer[-2:], num_particles]


def parts(columns: Columns, objective: ELBO, remarks: Sequence[str] = ()) -> dict[str, Metric]:
    """What the bound is made of, and the value of what was trained; ``remarks`` say how that differs from the bound."""
    sites = _sites(columns)
    if not sites:
        return {}
    labels = {"reconstruction": "reconstruction, -E log p(x | z)"}
    labels |= {name: f"KL of {name.removeprefix('kl_')}" for name in sites} | {"kl_length": "length, -log p(n)"}
    figures = {name: Metric(labels[name], _nats(columns[name], columns)) for name in ["reconstruction", *sites]}
    rate = _total(columns, [name for name in sites if name != "kl_length"])
    figures["rate"] = Metric("rate, KL of all latents", _nats(rate, columns))
    # a weight above 1 only lowers the bound
    is_bound = objective.is_bound and all(weight >= 1 for weight in objective.kl_weights.values())
    label = f"objective that was trained: {', '.join([objective.name, *remarks])}"
    trained = _nats(columns["objective"], columns)
    figures["objective"] = Metric(label, trained, "log p(x)" if is_bound else None)
    return figures


def accuracies(columns: Columns) -> dict[str, Metric]:
    """How often the true token is the most probable one, the true ones before it given."""
    label = "token accuracy, teacher-forced"
    if "hits" not in columns:
        return {"accuracy": share(label, columns["hits_sampled"], columns["tokens"])}
    return {
        "accuracy": share(f"{label}, mean posterior", columns["hits"], columns["tokens"]),
        "accuracy_sampled": share(f"{label}, sampled posterior", columns["hits_sampled"], columns["tokens"]),
    }


def components(columns: Columns) -> dict[str, Metric]:
    """How many components of a mixture are in use, counted in three ways, the prior's included."""
    if "components" not in columns:
        return {}
    labels = {
        "kept_alpha": f"components with alpha > {LEAST_ALPHA}",
        "kept_entropy": "components, exp of the entropy of E[pi]",
        "kept_attention": "components that hold 99 % of the decoder's attention",
    }
    figures = {}
    for name, label in labels.items():
        if name not in columns:
            continue
        of_all = ratio(columns[name] / columns["components"])
        figures[name] = Metric(label, {"components": ratio(columns[name]), "of the text's": of_all})
    return figures


def layers(found: LatentInformation, latents: Sequence[str]) -> dict[str, Metric]:
    """What each latent carries, and all of them together; their divergences are among the parts of the bound."""
    count = len(found.mutual_information)
    labels = {
        "mutual_information": f"information of {{}} over {count:,} texts, at most ln {count:,} = {math.log(count):.2f}",
        "marginal_kl": f"mismatch of {{}} over {count:,} texts, aggregated posterior against prior",
        "active": f"active units of {{}} over {count:,} texts, lower latents averaged out",
        "sensitivity": f"drop of log p(x | z) over {count:,} texts with another text's {{}}",
    }
    columns = {
        "mutual_information": _with_all(found.mutual_information, found.mutual_information.sum(-1)),
        "marginal_kl": _with_all(found.marginal_kl, found.marginal_kl.sum(-1)),
        "sensitivity": _with_all(found.sensitivity, found.sensitivity_all),
    }
    variance = found.variance.cpu().numpy()
    figures: dict[str, Metric] = {}
    for number, (suffix, what) in enumerate([*((f"_{latent}", latent) for latent in latents), ("", "all latents")]):
        units = {name: {"nats/text": ratio(column[:, number])} for name, column in columns.items()}
        units["active"] = _active(variance[number] if suffix else variance)
        figures |= {f"{name}{suffix}": Metric(label.format(what), units[name]) for name, label in labels.items()}
    return figures


def share(label: str, hits: Column, counts: Column | None = None) -> Metric:
    """A figure between 0 and 1."""
    return Metric(label, {"share": ratio(hits, counts)})


def given_conditions(figures: Mapping[str, Metric]) -> dict[str, Metric]:
    """The figures of texts that answer to conditions: what is bounded is log p(x | c).

    Examples:
        >>> given_conditions({"bound": Metric("bound", {"nats": Estimate(1.0)}, "log p(x)")})["bound"].bound_on
        'log p(x | c)'
    """
    bounded = {name: (figure.bound_on or "").replace("p(x)", "p(x | c)") or None for name, figure in figures.items()}
    return {name: replace(figure, bound_on=bounded[name]) for name, figure in figures.items()}


def _bound(label: str, cost: Column, columns: Columns, exact: bool = False) -> Metric:
    nats = _nats(cost, columns)
    confusion = {"perplexity": perplexity(nats["nats/token"])}
    return Metric(label, nats | _bits(cost, columns) | confusion, "log p(x)", exact)


def _active(variance: Float[np.ndarray, "*units"]) -> dict[str, Estimate]:
    counts = {f"above {least}": Estimate(float((variance > least).sum())) for least in ACTIVE}
    return counts | {"of": Estimate(float(variance.size))}


def _with_all(each: Float[Tensor, "texts K"], together: Float[Tensor, " texts"]) -> Float[np.ndarray, "texts K_and_1"]:
    return torch.cat([each, together[:, None]], -1).cpu().numpy()


def _nats(cost: Column, columns: Columns) -> dict[str, Estimate]:
    return {"nats/token": ratio(cost, columns["tokens"]), "nats/text": ratio(cost)}


def _bits(cost: Column, columns: Columns) -> dict[str, Estimate]:
    return {"bits/byte": ratio(cost / math.log(2), columns["bytes"])}


def _sites(columns: Columns) -> list[str]:
    return [name for name in columns if name.startswith("kl_")]


def _total(columns: Columns, names: list[str]) -> Column:
    return np.sum([columns[name] for name in names], axis=0)
