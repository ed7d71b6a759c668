"""The fitted model that ``fit`` and ``load`` return, with all operations on it as methods."""

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any, overload

import torch
from jaxtyping import Float
from torch import Tensor

from ..guides.posteriors import TextPosterior
from ..models.serialization import from_config
from ..models.transformer.memory import Memory
from .data.corpus import Corpus
from .data.entries import Conditions, TextSource
from .evaluation.evaluate import evaluate, text_bounds
from .evaluation.report import Evaluation
from .evaluation.summary import run_summary
from .generation.decoding import Decoding
from .generation.editing import Edited, edit
from .generation.generate import decode, encode, reconstruct, sample
from .generation.interpolation import interpolate, swap
from .generation.reconstruction import Reconstruction
from .posterior.arviz_compat import ArviZData
from .posterior.export import posterior
from .pretrained.pretrained import Pretrained
from .runs.backbone import backbone_of
from .runs.checkpoints import objective_state, read_checkpoint
from .runs.fitted import FittedModel
from .runs.folder import RunFolder
from .runs.importable import warn_of_unimportable
from .runs.joint_module import joint_module
from .utils.files import as_path
from .utils.finite_weights import check_finite
from .utils.html import html_table
from .utils.registry import imported

__all__ = ["Run", "load"]


class Run(FittedModel):
    """A fitted model, with its guide, its corpus and its folder; :func:`~pyroformer.fit` and
    :func:`~pyroformer.load` return one.

    ``run.model`` and ``run.guide`` are ordinary Pyro modules, ``run.corpus`` has the texts and the tokenizer,
    ``run.config`` the configuration. The methods generate texts (:meth:`sample`, :meth:`reconstruct`,
    :meth:`interpolate`, :meth:`swap`, :meth:`edit`), give access to the posterior (:meth:`encode`, :meth:`decode`,
    :meth:`posterior`), and measure the model (:meth:`evaluate`, :meth:`bound`). For pictures see ``pf.plots``.

    Every method runs in evaluation mode, without gradients, and is a function of its ``seed``; the global random state
    is left as it is, unless :meth:`sample` is given no seed. If the run was trained on pairs of a condition and a text,
    every text needs its condition. Threads may share runs, but wait for one another (the state of Pyro and torch is
    global); train one model at a time.

    Arguments:
        model: The fitted model.
        guide: Its fitted guide, or None for a model without latents.
        corpus: The training corpus, with its tokenizer.
        folder: The folder of the run.
        config: The configuration of the run.
        step: The training step of the weights.
        trust: Modules or class paths outside pyroformer that may be imported for the run, such as its objective.
    """

    def __repr__(self) -> str:
        return f"Run({'; '.join(f'{name}: {value}' for name, value in run_summary(self).items())})"

    def _repr_html_(self) -> str:
        return html_table(run_summary(self).items(), caption="Run")

    @property
    def metrics(self) -> Any:
        """The training curve as a :class:`pandas.DataFrame`, in nats per token: a row for each report and validation.

        Raises:
            ValueError: If the run has no metrics yet.
        """
        return imported("pandas.DataFrame")(self.folder.read_metrics())

    @property
    def backbone(self) -> Pretrained:
        """The language model of this run, as ``for_corpus(backbone=...)`` takes it, with its tokenizer.

        Raises:
            ValueError: If the model is no language model, or its decoder has weights that others lack.
        """
        return backbone_of(self)

    def to(self, device: str | torch.device) -> "Run":
        """Move model and guide to a device, in place; batches follow them.

        Arguments:
            device: The device, such as ``"cuda"``.

        Returns:
            The run itself.

        Raises:
            ValueError: If there is no such device.
        """
        joint_module(self.model, self.guide).to(_available(device))
        return self

    def encode(self, texts: TextSource, conditions: Conditions | None = None) -> TextPosterior:
        """The approximate posterior of each text, as the guide's ``encode`` returns it.

        Its ``memory()`` is the input of :meth:`decode`.

        Arguments:
            texts: The texts to encode.
            conditions: The condition of each text, if the run was trained on pairs.

        Raises:
            ValueError: If the model has no latents, or a text is longer than the model's max_length.
        """
        return encode(self, texts, conditions)

    def decode(self, memory: Memory, *, seed: int = 0, **decoding: Any) -> list[str]:
        """Generate one text for each memory of a batch.

        Arguments:
            memory: The input of the decoder: a mixture with vectors of shape :math:`(B, N, P)`, or a context with
                latents of shape :math:`(B, K, p)`.
            seed: Random seed of the sampled tokens.
            decoding: Fields of :class:`~pyroformer.inference.generation.decoding.Decoding`; greedy by default.

        Raises:
            ValueError: If the memory does not have the type or shape that the decoder expects.
        """
        return decode(self, memory, _greedy_by_default(decoding), seed=seed)

    @overload
    def reconstruct(
        self,
        texts: str,
        *,
        conditions: str | int | None = None,
        min_weight: float = 0.0,
        seed: int = 0,
        **decoding: Any,
    ) -> Reconstruction: ...
    @overload
    def reconstruct(
        self,
        texts: Iterable[Any],
        *,
        conditions: Conditions | None = None,
        min_weight: float = 0.0,
        seed: int = 0,
        **decoding: Any,
    ) -> list[Reconstruction]: ...
    def reconstruct(
        self,
        texts: TextSource,
        *,
        conditions: Conditions | None = None,
        min_weight: float = 0.0,
        seed: int = 0,
        **decoding: Any,
    ) -> Reconstruction | list[Reconstruction]:
        """Encode each text and decode the mean of its posterior.

        Arguments:
            texts: The texts to reconstruct.
            conditions: The condition of each text, if the run was trained on pairs.
            min_weight: Components of the mixture with a smaller mean weight are dropped before decoding, which is
                faster.
            seed: Random seed of the sampled tokens.
            decoding: Fields of :class:`~pyroformer.inference.generation.decoding.Decoding`; greedy by default.

        Returns:
            One reconstruction for a single text, a list for several.

        Raises:
            ValueError: If the model has no latents, or a text is longer than the model's max_length.
        """
        results = reconstruct(
            self,
            texts,
            _greedy_by_default(decoding),
            conditions=conditions,
            min_weight=min_weight,
            seed=seed,
        )
        return results[0] if isinstance(texts, str) else results

    def sample(
        self,
        n: int = 1,
        *,
        seed: int | None = None,
        prompt: str = "",
        condition: str | int | None = None,
        **decoding: Any,
    ) -> list[str]:
        """Generate texts: latents from the prior, then tokens from the decoder.

        Arguments:
            n: Number of texts.
            seed: Random seed of latents and tokens; text i depends on the seed and on i only. Without one, every call
                draws anew, with a seed from torch's global generator.
            prompt: Beginning of every text.
            condition: The condition of every text, if the run was trained on pairs.
            decoding: Fields of :class:`~pyroformer.inference.generation.decoding.Decoding`, such as ``temperature``;
                by default tokens are sampled from the model's own distribution.

        Raises:
            ValueError: If ``n`` is negative, the prompt is too long, or the condition is missing or superfluous.
        """
        seed = int(torch.randint(2**31, ())) if seed is None else seed
        return sample(self, n, Decoding(**decoding), seed=seed, prompt=prompt, condition=condition)

    def interpolate(self, first: str, second: str, steps: int = 5, **options: Any) -> list[str]:
        """Interpolate between the posterior means of two texts, and decode each step.

        Arguments:
            first: The first text.
            second: The last text.
            steps: Number of texts, both ends included.
            options: Options of :func:`~pyroformer.inference.generation.interpolation.interpolate`, such as ``layers``.

        Raises:
            ValueError: If the model cannot interpolate, or a text is longer than the model's max_length.
        """
        return [step.text for step in interpolate(self, first, second, steps, **options)]

    def swap(self, text: str, other: str, layers: Sequence[int], **options: Any) -> str:
        """Decode a text with the latents of some layers replaced by those of another text.

        Arguments:
            text: The text to change.
            other: The text that the new latents come from.
            layers: The layers whose latents are replaced, from 1.
            options: Options of :func:`~pyroformer.inference.generation.interpolation.swap`, such as ``seed``.

        Raises:
            ValueError: If a layer has no latent, or a text is longer than the model's max_length.
        """
        return swap(self, text, other, layers, **options).text

    def edit(self, text: str, **options: Any) -> Edited:
        """Decode a text's mixture after components were dropped, rescaled or replaced.

        Arguments:
            text: The text to edit.
            options: Options of :func:`~pyroformer.inference.generation.editing.edit`, such as ``drop`` or ``scale``.

        Raises:
            ValueError: If the memory of the model is not a mixture, or a component does not exist.
        """
        return edit(self, text, **options)

    def posterior(
        self,
        texts: TextSource,
        conditions: Conditions | None = None,
        draws: int = 100,
        **options: Any,
    ) -> ArviZData:
        """Posterior draws and their log densities, for ArviZ: InferenceData (ArviZ 0.23) or a DataTree (1.x).

        Arguments:
            texts: The texts; use few, since every draw of their latents is stored.
            conditions: The condition of each text, if the run was trained on pairs.
            draws: Number of posterior draws for each text.
            options: Options of :func:`~pyroformer.inference.posterior.export.posterior`, such as ``predictive``,
                ``sites`` or ``progress``.

        Raises:
            ValueError: If the model has no latents, a text is longer than the model's max_length, or the draws would
                take too much memory.
        """
        return posterior(self, texts, conditions, draws, **options)

    def bound(
        self,
        texts: TextSource,
        num_particles: int = 64,
        *,
        conditions: Conditions | None = None,
        seed: int = 0,
        progress: bool | None = None,
    ) -> Float[Tensor, " texts"]:
        r"""The importance-weighted lower bound of :math:`\log p(x)` for each text, in nats.

        It is :math:`\log p(x)` itself for a model without latents, and a bound of :math:`\log p(x \mid c)` for a run
        trained on pairs.

        Arguments:
            texts: The texts.
            num_particles: Number of posterior draws; the bound becomes tighter with more.
            conditions: The condition of each text, if the run was trained on pairs.
            seed: Random seed of the draws.
            progress: Whether to show a progress bar on standard error; by default in a terminal and in notebooks.

        Raises:
            ValueError: If a text is longer than the model's max_length.
        """
        return text_bounds(self, texts, num_particles, conditions=conditions, seed=seed, progress=progress)

    def evaluate(self, texts: TextSource | None = None, **options: Any) -> Evaluation:
        """Evaluate the model, by default on the test split of its corpus.

        Arguments:
            texts: Other texts; pairs (condition, text) if the run was trained on pairs.
            options: Options of :func:`~pyroformer.inference.evaluation.evaluate.evaluate`, such as ``num_particles``,
                ``limit`` or ``progress``.
        """
        return evaluate(self, texts, **options)

    def save(self, folder: str | Path) -> "Run":
        """Save the whole run in a folder, as ``fit`` with ``out`` does: :func:`load` opens it, and ``fit`` resumes it.

        The weights that are loaded there are those of ``run.model`` and ``run.guide`` as they are now.

        Arguments:
            folder: A new or empty folder.

        Returns:
            The same model, guide and corpus, as the run in the new folder.

        Raises:
            ValueError: If the folder is not empty or cannot be written.
        """
        warn_of_unimportable(self.config)
        state = joint_module(self.model, self.guide).state_dict()
        weights = {f"objective.{name}": value for name, value in state.items()}
        copied = self.folder.copy(as_path(folder, "folder"), weights, self.step)
        corpus = Corpus.load(copied.corpus)
        return Run(self.model, self.guide, corpus, copied, self.config, self.step, self.trust)


def load(path: str | Path, *, trust: Collection[str] = (), device: str | torch.device = "cpu") -> Run:
    """Load a run from its folder, with its best weights.

    Arguments:
        path: The folder that ``fit`` wrote.
        trust: Modules or class paths outside pyroformer that may be imported for the run.
        device: Device of the model.

    Raises:
        ValueError: If the folder contains no run, its checkpoint is damaged, the run needs code that is not trusted, or
            there is no such device.
    """
    device = _available(device)
    folder = RunFolder(path)
    config = folder.read_config()
    model = from_config(config["model"], trust)
    guide = from_config(config["guide"], trust, model=model) if config.get("guide") else None
    if not isinstance(config.get("objective"), dict):
        raise ValueError(f"{folder.config_file} is damaged: it names no objective. Fit anew with another out.")
    weights = folder.best if folder.best.exists() else folder.last
    checkpoint = read_checkpoint(weights, moments=False)
    modules = joint_module(model, guide)
    try:
        modules.load_state_dict(objective_state(checkpoint, modules))
    except RuntimeError as error:
        raise ValueError(
            f"{weights} is a checkpoint of another model than the one in {folder.config_file}: restore the two "
            "files of one run."
        ) from error
    check_finite(dict(modules.named_parameters()), str(weights))
    modules.to(device).eval()
    return Run(model, guide, Corpus.load(folder.corpus), folder, config, int(checkpoint["global_step"]), trust)


def _available(device: str | torch.device) -> torch.device:
    """Parse a device and check that it is available.

    Raises:
        ValueError: If there is none of this name.
    """
    try:
        named = torch.device(device)
        torch.empty(0, device=named)
    except (RuntimeError, AssertionError, TypeError) as error:  # whatever torch says, in many lines
        raise ValueError(f"device is {device!r}, which is not here: give 'cpu', or a GPU that torch finds.") from error
    return named


def _greedy_by_default(decoding: dict[str, Any]) -> Decoding:
    return Decoding(**decoding) if decoding else Decoding(greedy=True)
