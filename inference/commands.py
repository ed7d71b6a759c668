"""What each command does; its signature and docstring are its help."""

import json as javascript
import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from .console import Progress, say

if TYPE_CHECKING:  # torch is imported when a command runs, not for its help
    from .options import TrainingOptions
    from .preparing import Prepared
    from .run import Run

__all__ = ["evaluate", "fit", "load_run", "plot", "rank", "reconstruct", "rule", "sample", "say_json"]


def fit(
    name: str,
    *,
    data: str | None = None,
    out: str | None = None,
    size: Literal["tiny", "small", "base"] | None = None,
    attention: Literal["softmax", "probabilistic"] | None = None,
    init_from: str | None = None,
    resume: bool = False,
    vocabulary: int | Literal["auto"] = "auto",
    window: int | None = None,
    long: Literal["split", "drop"] | None = None,
    field: str | None = None,
    condition: str | None = None,
    labels: bool | None = None,
    trust: list[str] | None = None,
    model: Mapping[str, Any] | None = None,
    guide: Mapping[str, Any] | None = None,
    **training: Any,
) -> None:
    """Train a model on texts and keep it in a folder, which all other commands read.

    Examples:
      pyroformer fit nvae --data reviews.txt --out runs/reviews --minutes 10
      pyroformer fit lm --data builtin --out runs/lm --size small --steps 5000
      pyroformer fit lm --data reviews.txt --out runs/gpt2 --init_from gpt2
      pyroformer fit nvae --out runs/reviews --resume        goes on after Ctrl-C or a crash

    Arguments:
        name: The model.
        data: A .txt, .txt.gz, .jsonl or .tsv file with one text a line, a folder with train, valid and test files, or
            the word builtin: English sentences from Python's own documentation.
        out: The folder of the run, new or empty.
        size: How large the model is (default: tiny); --model.width and the like change one dimension.
        attention: What every sequence attends to itself by (default: softmax); short for --model.attention.
        init_from: A pretrained GPT-2 that the decoder starts from: a folder in Hugging Face format, or a name on its
            hub. Sizes, tokenizer and dropout are then GPT-2's, and the learning_rate is 1e-4 by default.
        resume: Go on with the run in --out; its texts, model and options are remembered.
        vocabulary: Number of sub-words that texts are cut into, or auto: by the size of the data.
        window: The longest text in tokens (default: 64).
        long: What becomes of longer texts (default: split; of built-in ones: drop).
        field: The key of a .jsonl file, or the column of a .tsv file, that holds the text.
        condition: The key or the column that holds what each text is written for, such as a label or a question.
        labels: Whether each condition is one token (default: if they are at most 1,000 different words).
        trust: Classes outside pyroformer that the run to go on with may import, such as my_priors.Sticky.
        model: Options of the model.
        guide: Options of the guide.
        training: Options of the training.
    """
    from .options import TrainingOptions

    if out is None:
        raise ValueError("fit needs --out FOLDER: the run is kept there.")
    if data is None and not resume:
        raise ValueError("fit needs --data: a file of texts, a folder with train/valid/test, or the word builtin.")
    model = dict(model or {}) | ({} if attention is None else {"attention": attention})
    TrainingOptions(**training)  # says what is wrong with them before anything is read

    from .preparing import claim, prepare_new, prepare_old, read_corpus, read_trunk
    from .runs.folder import RunFolder
    from .training.fit import fit as train
    from .utils.registry import MODELS, imported

    folder = RunFolder(out)
    if rank() == 0:
        claim(folder, resume)
    texts = {"vocabulary": vocabulary, "window": window, "long": long}
    # Of processes that train together, those that the first one starts find what it has made.
    if folder.config_file.exists() and (resume or rank() > 0):
        asked = _asked(name, size, texts, model, guide or {})
        prepared = prepare_old(folder, name, asked, training, trust or ())
        say(f"going on with {out}: {prepared.corpus.describe()}")
    else:
        if data is None:
            raise ValueError(f"{out} holds no run to go on with: give --data to begin one.")
        imported(MODELS[name].model).check_conditions(condition is not None)
        trunk = None if init_from is None else read_trunk(init_from, size, texts, model)
        fields: dict[str, Any] = {"field": field, "condition": condition, "labels": labels}
        fields["tokenizer"] = None if trunk is None else trunk.tokenizer
        corpus = read_corpus(data, folder if rank() == 0 else None, **fields, **texts)
        say(f"reading {corpus.describe()}")
        prepared = prepare_new(
            name, corpus, size=size or "tiny", model=model, guide=guide, training=training, trunk=trunk
        )
        if trunk is not None:
            say(f"starting from {trunk.describe()}")
            if rank() == 0:
                folder.keep_start(prepared.model)
    settings = TrainingOptions(**prepared.training)
    say(_what(prepared, settings, "" if resume or init_from else size or "tiny"))
    progress = Progress(_objective(prepared, settings))
    try:
        run = train(*prepared[:3], out=out, resume=resume, report=progress, **prepared.training)
    finally:
        progress.close()
    if progress.done < 1:
        say(f"ended at {100 * progress.done:.0f} %; pyroformer fit {name} --out {shlex.quote(out)} --resume goes on")
    say(f"best at step {run.step:,}; run saved in {out}")


def evaluate(
    run: str,
    *,
    data: str | None = None,
    field: str | None = None,
    condition: str | None = None,
    split: Literal["train", "valid", "test"] = "test",
    json: str | None = None,
    particles: int = 64,
    limit: int | None = None,
    samples: int = 0,
    drop_below: float = 0.0,
    seed: int = 0,
    trust: list[str] | None = None,
) -> None:
    """Measure a run on texts that it was not trained on: bounds of log p(x), and what comes back from the posterior.

    Example:
      pyroformer evaluate runs/reviews --json reviews.json

    Arguments:
        run: The folder that fit wrote.
        data: Other texts to measure it on: a file, or a folder, of which it takes the test file.
        field: The key of a .jsonl file, or the column of a .tsv file, that holds the text.
        condition: The key or the column that holds what each text is written for, if the run was trained on pairs.
        split: Which of the run's own texts to measure it on.
        json: A file to write every number to.
        particles: Draws of the importance-weighted bound; more make it tighter and take longer.
        limit: At most so many texts.
        samples: Make up so many texts and tell how they differ from each other and from held-out ones.
        drop_below: Vectors of a mixture that weigh less leave before texts are written again.
        seed: Of all noise.
        trust: Classes outside pyroformer that the run may import, such as my_priors.Sticky.
    """
    from .utils.files import write_atomically

    if json is not None and not Path(json).parent.is_dir():
        raise ValueError(f"--json {json} lies in no folder: make {Path(json).parent} first.")
    texts = None if data is None else given_texts(data, field, condition)
    options: dict[str, Any] = {"split": split, "particles": particles, "limit": limit, "samples": samples, "seed": seed}
    found = load_run(run, trust).evaluate(texts, drop_below=drop_below, **options)
    say(found.table())
    if json is not None:
        content = javascript.dumps(found.as_dict(), indent=2, allow_nan=False) + "\n"
        write_atomically(Path(json), lambda path: path.write_text(content, encoding="utf-8"))


def sample(
    run: str,
    *,
    n: int = 5,
    prompt: str = "",
    condition: str | None = None,
    seed: int = 0,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    greedy: bool = False,
    trust: list[str] | None = None,
) -> None:
    """Make texts up, from the prior down: one line of JSON for each.

    Example:
      pyroformer sample runs/reviews -n 10 --temperature 0.8

    Arguments:
        run: The folder that fit wrote.
        n: How many.
        prompt: How every text begins.
        condition: What every text answers to, if the run was trained on pairs.
        seed: The same seed gives the same texts; another one others.
        temperature: Below 1 sharpens the distribution of each token, above 1 flattens it.
        top_k: Draw from so many most probable tokens; 0 is all of them.
        top_p: Draw from the most probable tokens that together have this share of the probability.
        greedy: Take the most probable token each time; what is random is the prior's draw.
        trust: Classes outside pyroformer that the run may import, such as my_priors.Sticky.
    """
    chosen = rule(temperature, top_k, top_p, greedy)
    if n < 1:
        raise ValueError(f"-n is {n}: give a positive whole number.")
    for text in load_run(run, trust).sample(n, seed=seed, prompt=prompt, condition=condition, **chosen):
        say_json({"text": text})


def reconstruct(
    run: str,
    *,
    text: str | None = None,
    data: str | None = None,
    field: str | None = None,
    condition: str | None = None,
    n: int | None = None,
    drop_below: float = 0.0,
    seed: int = 0,
    temperature: float | None = None,
    top_k: int | None = None,
    top_p: float | None = None,
    trust: list[str] | None = None,
) -> None:
    """Encode texts and write them again from the mean of their posterior: one line of JSON for each.

    Without --text and --data it takes five held-out texts of the run. The most probable token is taken each time unless
    --temperature, --top_k or --top_p says how to draw.

    Example:
      pyroformer reconstruct runs/reviews --text "I would read it again."

    Arguments:
        run: The folder that fit wrote.
        text: A text to encode.
        data: A file of texts to encode.
        field: The key of a .jsonl file, or the column of a .tsv file, that holds the text.
        condition: For a run on pairs: what --text answers to, or the key or column of --data that holds it.
        n: At most so many texts.
        drop_below: Vectors of a mixture that weigh less leave before anything is written, which takes less time then.
        seed: Of the draws.
        temperature: Below 1 sharpens the distribution of each token, above 1 flattens it.
        top_k: Draw from so many most probable tokens; 0 is all of them.
        top_p: Draw from the most probable tokens that together have this share of the probability.
        trust: Classes outside pyroformer that the run may import, such as my_priors.Sticky.
    """
    chosen = rule(temperature, top_k, top_p)
    if text is not None and data is not None:
        raise ValueError("both --text and --data say what to encode: give one of them.")
    if text is not None and not text.strip():
        raise ValueError("--text is empty: give a text of at least one word.")
    if n is not None and n < 1:
        raise ValueError(f"-n is {n}: give a positive whole number.")
    if text is None and data is None and condition is not None:
        raise ValueError(f"--condition is {condition!r}, but of no text: give --text or --data with it.")
    given = None if data is None else given_texts(data, field, condition)[:n]
    if text is not None:
        given = [text] if condition is None else [(condition, text)]
    loaded = load_run(run, trust)
    if given is None:
        given = loaded.corpus.entries("test", n or HELD_OUT)
    from .data.pairs import separated

    texts, conditions = separated(given)
    for found in loaded.reconstruct(texts, conditions=conditions, drop_below=drop_below, seed=seed, **chosen):
        item = found.as_dict()
        say_json({"original": item.pop("original"), "reconstruction": item.pop("text")} | item)


def plot(run: str, *, out: str | None = None, trust: list[str] | None = None) -> None:
    """Draw the training curves and what there is to see of latents.

    Of a mixture, its weights and the decoder's attention for a few held-out texts; of latents in layers, their KL over
    the training, their active units, and a text with latents of another.

    Example:
      pyroformer plot runs/reviews

    Arguments:
        run: The folder that fit wrote.
        out: The folder for the pictures; plots in the run's folder if not given.
        trust: Classes outside pyroformer that the run may import, such as my_priors.Sticky.
    """
    from .plots import save_all

    for path in save_all(load_run(run, trust), out):
        say(str(path))


HELD_OUT = 5  # texts that `reconstruct` shows


def rank() -> int:
    """The number of this process among those that train together; only the first one speaks."""
    return int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", 0)))


def _asked(
    name: str, size: str | None, texts: Mapping[str, Any], model: Mapping[str, Any], guide: Mapping[str, Any]
) -> dict[str, Any]:
    """What was asked for besides the training, by flag; a size is the dimensions that it stands for."""
    from .utils.registry import MODELS, imported

    dimensions = imported(MODELS[name].model).sizes[size] if size else {}
    asked = {f"--{key}": value for key, value in texts.items() if value not in (None, "auto")}
    asked |= {f"--model.{key}": value for key, value in (dimensions | dict(model)).items()}
    return asked | {f"--guide.{key}": value for key, value in guide.items()}


def _what(prepared: "Prepared", settings: "TrainingOptions", size: str) -> str:
    """What is trained, where, and how large it is."""
    import torch

    if torch.cuda.is_available():
        place = torch.cuda.get_device_name()
    else:
        threads = torch.get_num_threads()
        place = f"cpu ({threads} thread{'s' if threads > 1 else ''})"
    if settings.devices > 1:
        place = f"{settings.devices} x {place}"
    parts = [part for part in prepared[:2] if part is not None]
    parameters = {parameter for part in parts for parameter in part.parameters()}  # a guide shares some of its model's
    count = sum(parameter.numel() for parameter in parameters)
    precision = "bfloat16" if settings.precision == "bf16" else "float32"
    kind = f"{type(prepared.model).__name__} {size}".strip()
    number = f"{count / 1e6:.1f} M" if count >= 1e5 else f"{count:,}"
    return f"training on {place}, {precision}, {kind}, {number} parameters"


def _objective(prepared: "Prepared", settings: "TrainingOptions") -> str:
    """What the objective is called; a bound of log p(x) needs no remark."""
    from .objectives.registry import describe_objective, in_words

    words = in_words(describe_objective(prepared.model, settings))
    return f"objective ({words})" if words else "objective"


def load_run(path: str, trust: Sequence[str] | None) -> "Run":
    """The run in a folder, on the GPU if there is one."""
    import torch

    from .preparing import read_config
    from .run import load
    from .runs.folder import RunFolder

    read_config(RunFolder(path))
    return load(path, trust=trust or (), device="cuda" if torch.cuda.is_available() else "cpu")


def given_texts(data: str, field: str | None, condition: str | None = None) -> Any:
    """The texts or pairs of a file, or of a folder's test file."""
    from .data.readers import read_file, read_splits

    if Path(data).is_dir():
        return read_splits(data, field, condition=condition)[0]["test"]
    return read_file(data, field, condition=condition)[0]


def rule(
    temperature: float | None = None, top_k: int | None = None, top_p: float | None = None, greedy: bool = False
) -> dict[str, Any]:
    """How tokens are chosen, as far as it was said; what is wrong with it is told before anything is loaded."""
    from .generation.decoding import Decoding

    asked = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "greedy": greedy or None}
    given: dict[str, Any] = {name: value for name, value in asked.items() if value is not None}
    Decoding(**given)
    return given


def say_json(item: Mapping[str, Any]) -> None:
    """Print a line of JSON."""
    say(javascript.dumps(item, ensure_ascii=False, allow_nan=False))
