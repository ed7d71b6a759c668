"""Inventories of other projects' names for intersphinx: ``python docs/make_inventories.py``.

An inventory maps names to pages of a project's documentation. Sphinx would download the project's own one at every
build. Ours, in docs/inventories, contain only the names that this documentation mentions, so a build needs no
network. Add a name that lacks its link to ``PROJECTS``.
"""

import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

FOLDER = Path(__file__).resolve().parent / "inventories"


class Project(NamedTuple):
    """The address of a project's documentation, and the names on its pages."""

    url: str
    pages: dict[
        str, str
    ]  # page -> names; {} in a page stands for the name, and # at its end for a page without anchors
    aliases: dict[str, str] = {}  # other paths of a name, as in annotations


PROJECTS = {
    "python": Project(
        "https://docs.python.org/3/",
        {
            "library/collections.abc.html": "collections.abc.Callable collections.abc.Collection "
            "collections.abc.Iterable collections.abc.Iterator collections.abc.Mapping collections.abc.Sequence",
            "library/collections.html": "collections.Counter",
            "library/constants.html": "None",
            "library/exceptions.html": "Exception AttributeError ImportError IndexError KeyError OSError RuntimeError "
            "SystemExit TypeError ValueError",
            "library/functions.html": "bool float int object type",
            "library/pathlib.html": "pathlib.Path",
            "library/stdtypes.html": "bytes dict frozenset list range set str tuple",
            "library/typing.html": "typing.Any typing.NamedTuple typing.Protocol typing.TypeVar",
        },
    ),
    "numpy": Project(
        "https://numpy.org/doc/stable/",
        {
            "reference/generated/{}.html": "numpy.ndarray",
            "reference/random/generator.html": "numpy.random.Generator",
        },
        {"ndarray": "numpy.ndarray", "numpy.random._generator.Generator": "numpy.random.Generator"},
    ),
    "torch": Project(
        "https://docs.pytorch.org/docs/stable/",
        {
            "distributions.html": "torch.distributions.distribution.Distribution "
            "torch.distributions.mixture_same_family.MixtureSameFamily torch.distributions.independent.Independent "
            "torch.distributions.constraints.Constraint",
            "generated/{}.html": "torch.Generator torch.compile torch.nn.LayerNorm torch.nn.Linear torch.nn.Module "
            "torch.nn.ModuleDict "
            "torch.nn.functional.scaled_dot_product_attention torch.nn.parameter.Parameter torch.optim.AdamW",
            "data.html": "torch.utils.data.IterableDataset",
            "optim.html": "torch.optim.Optimizer",
            "size.html": "torch.Size",
            "tensor_attributes.html": "torch.device torch.dtype",
            "tensors.html": "torch.Tensor",
        },
        {
            "Tensor": "torch.Tensor",
            "torch.utils.data.dataset.IterableDataset": "torch.utils.data.IterableDataset",
            "torch.nn.Parameter": "torch.nn.parameter.Parameter",
            "torch.nn.modules.linear.Linear": "torch.nn.Linear",
            "torch.nn.modules.container.ModuleDict": "torch.nn.ModuleDict",
            "torch.nn.modules.module.Module": "torch.nn.Module",
            "torch.distributions.Distribution": "torch.distributions.distribution.Distribution",
            "torch.optim.optimizer.Optimizer": "torch.optim.Optimizer",
        },
    ),
    "pyro": Project(
        "https://docs.pyro.ai/en/stable/",
        {
            "distributions.html": "pyro.distributions.torch_distribution.TorchDistribution",
            "infer.autoguide.html": "pyro.infer.autoguide.AutoGuide",
            "inference_algos.html": "pyro.infer.elbo.ELBO pyro.infer.elbo.ELBOModule pyro.infer.svi.SVI "
            "pyro.infer.trace_elbo.Trace_ELBO pyro.infer.trace_mean_field_elbo.TraceMeanField_ELBO "
            "pyro.infer.traceenum_elbo.TraceEnum_ELBO",
            "nn.html": "pyro.nn.module.PyroModule pyro.nn.module.PyroParam pyro.nn.module.PyroSample",
            "optimization.html": "pyro.optim.optim.PyroOptim",
            "poutine.html#": "pyro.poutine.Trace",
            "primitives.html#": "pyro.plate pyro.sample",
        },
        {
            "pyro.distributions.TorchDistribution": "pyro.distributions.torch_distribution.TorchDistribution",
            "pyro.infer.ELBO": "pyro.infer.elbo.ELBO",
            "pyro.infer.SVI": "pyro.infer.svi.SVI",
            "pyro.infer.Trace_ELBO": "pyro.infer.trace_elbo.Trace_ELBO",
            "pyro.infer.TraceEnum_ELBO": "pyro.infer.traceenum_elbo.TraceEnum_ELBO",
            "pyro.infer.TraceMeanField_ELBO": "pyro.infer.trace_mean_field_elbo.TraceMeanField_ELBO",
            "pyro.infer.autoguide.guides.AutoGuide": "pyro.infer.autoguide.AutoGuide",
            "pyro.nn.PyroModule": "pyro.nn.module.PyroModule",
            "pyro.nn.PyroParam": "pyro.nn.module.PyroParam",
            "pyro.nn.PyroSample": "pyro.nn.module.PyroSample",
            "pyro.optim.PyroOptim": "pyro.optim.optim.PyroOptim",
            "pyro.poutine.trace_struct.Trace": "pyro.poutine.Trace",
            "pyro.primitives.plate": "pyro.plate",
        },
    ),
    "arviz": Project(
        "https://python.arviz.org/en/v0.22.0/",
        {"api/generated/{}.html": "arviz.InferenceData arviz.plot_forest arviz.summary"},
    ),
    "xarray": Project(
        "https://docs.xarray.dev/en/stable/",
        {"generated/{}.html": "xarray.DataArray xarray.DataTree xarray.Dataset"},
    ),
    "matplotlib": Project(
        "https://matplotlib.org/stable/",
        {"api/_as_gen/{}.html": "matplotlib.axes.Axes matplotlib.figure.Figure"},
        {"matplotlib.axes._axes.Axes": "matplotlib.axes.Axes"},
    ),
    "jaxtyping": Project(
        "https://docs.kidger.site/jaxtyping/",
        {
            "api/array/#": "jaxtyping.Bool jaxtyping.Float jaxtyping.Int jaxtyping.Integer jaxtyping.Shaped "
            "jaxtyping.UInt jaxtyping.UInt16",
        },
    ),
}
FUNCTIONS = {"compile", "plate", "plot_forest", "sample", "scaled_dot_product_attention", "summary"}


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for name, project in PROJECTS.items():
        (FOLDER / f"{name}.inv").write_bytes(inventory(name, project))


def inventory(name: str, project: Project) -> bytes:
    """The file of one project, in version 2 of Sphinx's format."""
    head = f"# Sphinx inventory version 2\n# Project: {name}\n# Version: \n"
    head += "# The remainder of this file is compressed using zlib.\n"
    return head.encode() + zlib.compress("".join(sorted(lines(project))).encode(), 9)


def lines(project: Project) -> Iterator[str]:
    """Name, kind, priority, address and title of each name."""
    addresses = {}
    for page, names in project.pages.items():
        for name in names.split():
            where = page.format(name)
            addresses[name] = where[:-1] if where.endswith("#") else f"{where}#{name}"
    addresses |= {alias: addresses[name] for alias, name in project.aliases.items()}
    for name, address in addresses.items():
        last = name.rpartition(".")[2]
        kind = "function" if last in FUNCTIONS else "exception" if last.endswith(("Error", "Exception")) else "class"
        yield f"{name} py:{kind} 1 {address} -\n"


if __name__ == "__main__":
    main()
