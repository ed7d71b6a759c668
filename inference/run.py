"""The fitted model that ``fit`` and ``load`` return, with all operations on it as methods."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Unpack, overload

import torch
from jaxtyping import Float
from torch import Tensor

from ..guides.posteriors import TextPosterior
from ..models.serialization import from_config
from ..models.transformer.memory import Memory
from .data.corpus import Corpus
from .data.entries import Conditions, TextSource
from .evaluation.evaluate import Split, evaluate, text_bounds
from .evaluation.metric import Metric
from .evaluation.report import Evaluation
from .evaluation.summary import run_summary
from .generation.decoding import Decoding, DecodingFields
from .generation.editing import Edited, edit
from .generation.generate import GREEDY, decode, encode, reconstruct, sample
from .generation.interpolation import interpolate, swap
from .generation.reconstruction import Reconstruction
from .posterior.arviz_compat import ArviZData
from .posterior.export import GIBIBYTE, posterior
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
from .utils.keywords import check_options, with_options_of
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

    Examples:
        An NVAE that starts from a language model reconstructs every text before it is trained:

        >>> subjects, adjectives = ("food", "room", "book", "walk", "play"), ("good", "bad", "new", "old")
        >>> texts = [f"The {subject} was {adjective}." for subject in subjects for adjective in adjectives]
        >>> corpus = pf.Corpus.from_texts(texts, tokenizer="bytes", max_length=24)
        >>> writer = pf.LanguageModel.for_corpus(corpus, width=32, layers=1, heads=2)
        >>> model = pf.NVAE.for_corpus(corpus, backbone=pf.fit(writer, None, corpus, steps=1).backbone)
        >>> run = pf.fit(model, pf.NVAEGuide(model), corpus, steps=1)
        >>> run.reconstruct("The food was good.").text
        'The food was good.'

        The examples of the methods go on from here.
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

        Examples:
            >>> run.metrics["split"].unique().tolist()
            ['train', 'valid']
        """
        return imported("pandas.DataFrame")(self.folder.read_metrics())

    @property
    def backbone(self) -> Pretrained:
        """The language model of this run, as ``for_corpus(backbone=...)`` takes it, with its tokenizer.

        Raises:
            ValueError: If the model is no language model, or its decoder has weights that others lack.

        Examples:
            >>> model = pf.LanguageModel.for_corpus(run.corpus, width=8, layers=1, heads=2)
            >>> pf.fit(model, None, run.corpus, steps=1).backbone.tokenizer.kind
            'bytes'
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

        Examples:
            >>> run.to("cpu") is run
            True
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

        Examples:
            >>> run.encode(["The food was good."]).mixture()  # the prior's component, and one of each token
            MixturePosterior(1 text, 20 components of 32 dimensions)
        """
        return encode(self, texts, conditions)

    @with_options_of(Decoding, defaults={"greedy": True})
    def decode(self, memory: Memory, *, seed: int = 0, **decoding: Unpack[DecodingFields]) -> list[str]:
        """Generate one text for each memory of a batch.

        Arguments:
            memory: The input of the decoder: a mixture with vectors of shape :math:`(B, N, P)`, or a context with
                latents of shape :math:`(B, K, p)`.
            seed: Random seed of the sampled tokens.
            decoding: ``temperature``, ``top_k``, ``top_p`` and ``greedy`` of
                :class:`~pyroformer.inference.generation.decoding.Decoding`; greedy unless one is given.

        Raises:
            ValueError: If the memory does not have the type or shape that the decoder expects, or an option of decoding
                does not exist or is out of range.

        Examples:
            >>> run.decode(run.encode(["The food was good."]).memory())
            ['The food was good.']
        """
        return decode(self, memory, _decoding(Run.decode, decoding), seed=seed)

    @overload
    def reconstruct(
        self,
        texts: str,
        *,
        conditions: str | int | None = None,
        min_weight: float = 0.0,
        seed: int = 0,
        **decoding: Unpack[DecodingFields],
    ) -> Reconstruction: ...
    @overload
    def reconstruct(
        self,
        texts: Iterable[Any],
        *,
        conditions: Conditions | None = None,
        min_weight: float = 0.0,
        seed: int = 0,
        **decoding: Unpack[DecodingFields],
    ) -> list[Reconstruction]: ...
    @with_options_of(Decoding, defaults={"greedy": True})
    def reconstruct(
        self,
        texts: TextSource,
        *,
        conditions: Conditions | None = None,
        min_weight: float = 0.0,
        seed: int = 0,
        **decoding: Unpack[DecodingFields],
    ) -> Reconstruction | list[Reconstruction]:
        """Encode each text and decode the mean of its posterior.

        Arguments:
            texts: The texts to reconstruct.
            conditions: The condition of each text, if the run was trained on pairs.
            min_weight: Components of the mixture with a smaller mean weight are dropped before decoding, which is
                faster.
            seed: Random seed of the sampled tokens.
            decoding: ``temperature``, ``top_k``, ``top_p`` and ``greedy``, as in :meth:`decode`.

        Returns:
            One reconstruction for a single text, a list for several.

        Raises:
            ValueError: If the model has no latents, a text is longer than the model's max_length, or an option is out
                of range.

        Examples:
            >>> reconstruction = run.reconstruct("The food was good.")
            >>> reconstruction.text, reconstruction.tokens[:3]
            ('The food was good.', ('T', 'h', 'e'))
        """
        results = reconstruct(
            self,
            texts,
            _decoding(Run.reconstruct, decoding),
            conditions=conditions,
            min_weight=min_weight,
            seed=seed,
        )
        return results[0] if isinstance(texts, str) else results

    @with_options_of(Decoding)
    def sample(
        self,
        n: int = 1,
        *,
        seed: int | None = None,
        prompt: str = "",
        condition: str | int | None = None,
        **decoding: Unpack[DecodingFields],
    ) -> list[str]:
        """Generate texts: latents from the prior, then tokens from the decoder.

        Arguments:
            n: Number of texts.
            seed: Random seed of latents and tokens; text i depends on the seed and on i only. Without one, every call
                draws anew, with a seed from torch's global generator.
            prompt: Beginning of every text.
            condition: The condition of every text, if the run was trained on pairs.
            decoding: ``temperature``, ``top_k``, ``top_p`` and ``greedy`` of
                :class:`~pyroformer.inference.generation.decoding.Decoding`; by default tokens are sampled from the
                model's own distribution.

        Raises:
            ValueError: If ``n`` is negative, the prompt is too long, the condition is missing or superfluous, or an
                option of decoding does not exist or is out of range.

        Examples:
            >>> first, second = run.sample(2, seed=0, prompt="The ", temperature=0.5)
            >>> first.startswith("The "), run.sample(1, seed=0, prompt="The ", temperature=0.5) == [first]
            (True, True)
        """
        seed = int(torch.randint(2**31, ())) if seed is None else seed
        how = _decoding(Run.sample, decoding, otherwise=Decoding())
        return sample(self, n, how, seed=seed, prompt=prompt, condition=condition)

    @with_options_of(Decoding, defaults={"greedy": True})
    def interpolate(
        self,
        first: str,
        second: str,
        steps: int = 5,
        *,
        layers: Sequence[int] | None = None,
        condition: str | int | None = None,
        seed: int = 0,
        **decoding: Unpack[DecodingFields],
    ) -> list[str]:
        """Interpolate between the posterior means of two texts, and decode each step.

        Latents of layers are interpolated linearly; between two mixtures lies their mixture.

        Arguments:
            first: The first text.
            second: The last text.
            steps: Number of texts, both ends included.
            layers: The layers to interpolate in, from 1; all if None. Only for models whose latents belong to layers.
            condition: The condition of both texts, if the run was trained on pairs.
            seed: Random seed of the sampled tokens.
            decoding: ``temperature``, ``top_k``, ``top_p`` and ``greedy``, as in :meth:`decode`.

        Raises:
            ValueError: If the model cannot interpolate, there are fewer than two steps, a layer has no latent, or a
                text is longer than the model's max_length.

        Examples:
            >>> path = run.interpolate("The food was good.", "The room was bad.", steps=3)
            >>> path[0], path[-1]
            ('The food was good.', 'The room was bad.')
        """
        how = _decoding(Run.interpolate, decoding)
        path = interpolate(self, first, second, steps, layers=layers, decoding=how, seed=seed, condition=condition)
        return [step.text for step in path]

    @with_options_of(Decoding, defaults={"greedy": True})
    def swap(
        self,
        text: str,
        other: str,
        layers: Sequence[int],
        *,
        condition: str | int | None = None,
        seed: int = 0,
        **decoding: Unpack[DecodingFields],
    ) -> str:
        """Decode a text with the latents of some layers replaced by those of another text.

        Arguments:
            text: The text to change.
            other: The text that the new latents come from.
            layers: The layers whose latents are replaced, from 1.
            condition: The condition of both texts, if the run was trained on pairs.
            seed: Random seed of the sampled tokens.
            decoding: ``temperature``, ``top_k``, ``top_p`` and ``greedy``, as in :meth:`decode`.

        Raises:
            ValueError: If a layer has no latent, or a text is longer than the model's max_length.

        Examples:
            >>> model = pf.DELLA.for_corpus(run.corpus, width=16, layers=2, heads=2)
            >>> layered = pf.fit(model, pf.DELLAGuide(model), run.corpus, steps=1)
            >>> whole = layered.swap("The food was good.", "The room was bad.", layers=[1, 2])
            >>> whole == layered.reconstruct("The room was bad.").text
            True
        """
        how = _decoding(Run.swap, decoding)
        return swap(self, text, other, layers, decoding=how, seed=seed, condition=condition).text

    @with_options_of(Decoding, defaults={"greedy": True})
    def edit(
        self,
        text: str,
        *,
        drop: Iterable[int] = (),
        scale: Mapping[int, float] | None = None,
        swap: Mapping[int, int] | None = None,
        other: str | None = None,
        seed: int = 0,
        **decoding: Unpack[DecodingFields],
    ) -> Edited:
        """Decode a text's mixture after vectors were dropped, rescaled or replaced.

        Vector 0 is the prior's, 1, 2, ... are those of the tokens. The remaining weights are renormalized.

        Arguments:
            text: The text to edit.
            drop: Vectors to drop; the prior's cannot be dropped.
            scale: Factors of the weights, by vector.
            swap: Vectors of the other text, by the vector that they replace; the weight stays.
            other: The text that the new vectors come from.
            seed: Random seed of the sampled tokens.
            decoding: ``temperature``, ``top_k``, ``top_p`` and ``greedy``, as in :meth:`decode`.

        Raises:
            ValueError: If the memory of the model is not a mixture, a vector does not exist or cannot be edited so, or
                only one of ``swap`` and ``other`` is set.

        Examples:
            >>> edited = run.edit("The food was good.", swap={5: 5}, other="The room was bad.")
            >>> edited.text, edited.swapped
            ('The rood was good.', {5: 5})
        """
        how = _decoding(Run.edit, decoding)
        return edit(self, text, drop=drop, scale=scale, swap=swap, other=other, decoding=how, seed=seed)

    def posterior(
        self,
        texts: TextSource,
        conditions: Conditions | None = None,
        draws: int = 100,
        *,
        seed: int = 0,
        sites: str | Collection[str] | None = None,
        include_prior: bool = True,
        predictive: int = 0,
        fix_global: bool = False,
        max_bytes: int = GIBIBYTE,
        progress: bool | None = None,
    ) -> ArviZData:
        """Posterior draws and their log densities, for ArviZ: InferenceData (ArviZ 0.23) or a DataTree (1.x).

        Arguments:
            texts: The texts; use few, since every draw of their latents is stored.
            conditions: The condition of each text, if the run was trained on pairs.
            draws: Number of posterior draws for each text.
            seed: Random seed.
            sites: The latent site or sites to export; all by default. Log densities are always those of all sites.
            include_prior: Whether to draw from the prior as well.
            predictive: Number of draws from which a text is decoded.
            fix_global: Whether all draws have the same values of the global sites, such as hyper-priors: only then do
                texts have a k-hat each.
            max_bytes: Maximal size of the latent draws in bytes.
            progress: Whether to show a progress bar on standard error; by default in a terminal and in notebooks.

        Raises:
            ValueError: If the model has no latents, a text is longer than the model's max_length, a site does not
                exist, or the draws would take more than ``max_bytes``.

        Examples:
            >>> data = run.posterior("The food was good.", draws=5, include_prior=False)
            >>> dict(data.posterior["weights"].sizes)
            {'chain': 1, 'draw': 5, 'text': 1, 'component': 20}
        """
        return posterior(
            self,
            texts,
            conditions,
            draws,
            seed=seed,
            sites=sites,
            include_prior=include_prior,
            predictive=predictive,
            fix_global=fix_global,
            max_bytes=max_bytes,
            progress=progress,
        )

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
        trained on pairs. The metrics of :meth:`evaluate` are losses, that is, with the opposite sign.

        Arguments:
            texts: The texts.
            num_particles: Number of posterior draws; the bound becomes tighter with more.
            conditions: The condition of each text, if the run was trained on pairs.
            seed: Random seed of the draws.
            progress: Whether to show a progress bar on standard error; by default in a terminal and in notebooks.

        Raises:
            ValueError: If a text is longer than the model's max_length.

        Examples:
            >>> bounds = run.bound(["The food was good.", "The room was bad."], num_particles=8)
            >>> bounds.shape, bool((bounds < 0).all())
            (torch.Size([2]), True)
        """
        return text_bounds(self, texts, num_particles, conditions=conditions, seed=seed, progress=progress)

    def evaluate(
        self,
        texts: TextSource | None = None,
        *,
        metrics: Sequence[str | Metric] | None = None,
        split: Split = "test",
        num_particles: int = 64,
        seed: int = 0,
        limit: int | None = None,
        reconstructions: int = 256,
        compared: int = 512,
        samples: int = 0,
        min_weight: float = 0.0,
        batch_size: int = 64,
        progress: bool | None = None,
    ) -> Evaluation:
        """Evaluate the model, by default on the test split of its corpus.

        Arguments:
            texts: Other texts; pairs (condition, text) if the run was trained on pairs.
            metrics: The metrics to compute, by name or as objects; by default all of
                :data:`~pyroformer.inference.evaluation.metrics.METRICS` that apply to the run. Nothing is computed that
                no metric reads.
            split: The split to evaluate on.
            num_particles: Draws :math:`K` of the importance-weighted bound; those of the ELBO are at most 8.
            seed: Random seed. The draws of a text depend on the seed and on the text alone.
            limit: Largest number of texts; they are evenly spaced.
            reconstructions: Number of texts that are reconstructed, for BLEU and exact match.
            compared: Number of texts that are compared with one another, for the information of each latent.
            samples: Number of texts that are generated and compared with each other and with held-out texts.
            min_weight: Vectors of a mixture with a smaller mean weight are dropped before texts are reconstructed.
            batch_size: Texts in a batch.
            progress: Whether to show progress bars on standard error; by default in a terminal and in notebooks.

        Raises:
            ValueError: If there are no texts, a number is out of range, there is no mixture to drop vectors of, or
                there is no metric of a name.

        Examples:
            >>> evaluation = run.evaluate(["The food was good."], metrics=["bound", "exact_match"])
            >>> evaluation["exact_match"].value
            1.0
        """
        return evaluate(
            self,
            texts,
            metrics=metrics,
            split=split,
            num_particles=num_particles,
            seed=seed,
            limit=limit,
            reconstructions=reconstructions,
            compared=compared,
            samples=samples,
            min_weight=min_weight,
            batch_size=batch_size,
            progress=progress,
        )

    def save(self, folder: str | Path) -> "Run":
        """Save the whole run in a folder, as ``fit`` with ``out`` does: :func:`load` opens it, and ``fit`` resumes it.

        The weights that are loaded there are those of ``run.model`` and ``run.guide`` as they are now.

        Arguments:
            folder: A new or empty folder.

        Returns:
            The same model, guide and corpus, as the run in the new folder.

        Raises:
            ValueError: If the folder is not empty or cannot be written.

        Examples:
            >>> import tempfile
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     saved = run.save(folder)
            ...     pf.load(folder).reconstruct("The food was good.").text
            'The food was good.'
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

    Examples:
        >>> import tempfile
        >>> corpus = pf.Corpus.from_texts([f"number {n}" for n in range(30)], tokenizer="bytes", max_length=12)
        >>> model = pf.LanguageModel.for_corpus(corpus, width=8, layers=1, heads=2)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     run = pf.fit(model, None, corpus, out=folder, steps=1)
        ...     again = pf.load(folder)
        >>> bool(torch.equal(again.bound("number 7"), run.bound("number 7")))
        True
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


def _decoding(method: Callable[..., Any], given: DecodingFields, otherwise: Decoding = GREEDY) -> Decoding:
    """The decoding strategy of a method, from the keyword arguments that it was given.

    Raises:
        ValueError: If one does not exist or is out of range.
    """
    check_options(method, given)
    return Decoding(**given) if given else otherwise
