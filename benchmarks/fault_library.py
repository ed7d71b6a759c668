"""Faults of calls of the library: shapes, dtypes, masks, NaN, wrong types."""

import itertools
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from fault_runner import Case, Workplace

import pyroformer as pf

__all__ = ["library_cases"]

Call = Callable[[], object]
NAN = float("nan")


def library_cases(place: Workplace) -> Iterator[Case]:
    """Calls that must be refused with one line, a ValueError or a TypeError."""
    run = pf.load(place.root / "nvae")
    for name, calls in {
        "attend": attention_calls(),
        "Mixture": mixture_calls(),
        "Corpus": corpus_calls(place),
        "fit": fit_calls(run, place),
        "Run": run_calls(run),
        "priors": prior_calls(),
        "models": model_calls(run),
    }.items():
        for what, call in calls:
            yield Case("library", f"{name}: {what}", lambda _, call=call: call())


def attention_calls() -> Iterator[tuple[str, Call]]:
    mixture = pf.Mixture(torch.zeros(4), torch.randn(4, 3))
    queries = torch.randn(2, 3)
    for shape in ((2, 4), (3,), (), (2, 0), (5, 2, 2)):
        yield f"queries {shape}", partial(pf.attend, torch.zeros(shape), mixture)
    for value in (queries.int(), queries.cfloat(), queries > 0, queries.tolist(), None, queries.numpy(), "queries"):
        yield f"queries {type(value)} {getattr(value, 'dtype', '')}", partial(pf.attend, value, mixture)
    for options in (
        *({"returns": value} for value in ("mode", None, 3, "")),
        *({"form": value} for value in ("exakt", None, 3)),
        *({"dropout": value} for value in (-0.1, 1.5, NAN, "x")),
        {"returns": "evidence", "form": "published"},
        {"causal": True, "attn_mask": torch.ones(2, 4, dtype=torch.bool)},
        *({"attn_mask": torch.ones(shape, dtype=torch.bool)} for shape in ((3, 4), (2, 5), (4,), ())),
        {"attn_mask": torch.ones(2, 4)},
        {"attn_mask": "causal"},
    ):
        yield (
            f"{ {name: str(value)[:20] for name, value in options.items()} }",
            partial(pf.attend, queries, mixture, **options),
        )
    for value in (None, "mixture", torch.zeros(4, 3), (torch.zeros(4), torch.zeros(4, 3))):
        yield f"mixture {type(value)}", partial(pf.attend, queries, value)


def mixture_calls() -> Iterator[tuple[str, Call]]:
    weights, means = torch.zeros(4), torch.randn(4, 3)
    for shape in ((3,), (5,), (), (4, 1), (2, 3)):
        yield f"log_weights {shape}", partial(pf.Mixture, torch.zeros(shape), means)
    for variance in (-1.0, NAN, float("inf")):
        yield f"variance {variance}", partial(pf.Mixture, weights, means, torch.full((4, 3), variance))
        yield f"noise {variance}", partial(pf.Mixture, weights, means, noise_variance=variance)
        yield (
            f"value variance {variance}",
            partial(pf.Mixture, weights, means, values=means, value_variances=torch.full((4, 3), variance)),
        )
    for shape in ((4, 2), (3, 3), (5,), (2, 2, 2, 3)):
        yield f"variances {shape}", partial(pf.Mixture, weights, means, torch.ones(shape))
    for shape in ((3,), (5,), (), (4, 3)):
        yield f"mask {shape}", partial(pf.Mixture, weights, means, mask=torch.ones(shape, dtype=torch.bool))
    for shape in ((3, 3), (4,), ()):
        yield f"values {shape}", partial(pf.Mixture, weights, means, values=torch.ones(shape))
    yield "value variances alone", lambda: pf.Mixture(weights, means, value_variances=torch.ones(4, 3))
    for field, value in itertools.product(("log_weights", "means"), (None, [1.0], "x", 3, torch.zeros(4, 3).int())):
        given = {"log_weights": weights, "means": means, field: value}
        yield f"{field} {type(value)}", partial(pf.Mixture, **given)


def corpus_calls(place: Workplace) -> Iterator[tuple[str, Call]]:
    texts = [f"Number {i} is a number." for i in range(60)]
    for value in (None, 3, [], [""], [3] * 60, [None] * 60, [b"x"] * 60, ["a"], "text", [["a"]] * 60, [("a",)] * 60,
                  [("a", "b", "c")] * 60, {}, {"train": texts}, {"train": texts, "valid": texts, "test": []},
                  torch.zeros(60)):  # fmt: skip
        yield f"texts {str(value)[:20]}", partial(pf.Corpus.from_texts, value)
    for options in (
        *({"vocabulary": value} for value in (0, -1, 100, 1.5, "large", None, NAN)),
        *({"max_length": value} for value in (0, -1, 3, 1.5, "x", NAN)),
        *({"overlong": value} for value in ("cut", 3)),
        *({"seed": value} for value in (-1, 1.5, "x")),
        *({"tokenizer": value} for value in ("byte", 3)),
        *({"labels": value} for value in (True, False)),
    ):
        yield str(options), partial(pf.Corpus.from_texts, texts, **options)
    for path in ("nowhere.txt", "", ".", "/dev/null", place.root / "nvae" / "config.yaml", 3, None):
        yield f"file {str(path)[-20:]}", partial(pf.Corpus.from_file, path)
        yield f"load {str(path)[-20:]}", partial(pf.Corpus.load, path)
    corpus = pf.Corpus.load(place.root / "nvae" / "corpus")
    for options in ({"split": "dev"}, {"batch_size": 0}, {"batch_size": -1}, {"epochs": -1}, {"batch_size": 1.5}):
        yield f"batches {options}", lambda options=options: list(corpus.batches(**options))


def fit_calls(run: Any, place: Workplace) -> Iterator[tuple[str, Call]]:
    corpus = run.corpus
    model = pf.VAE.for_corpus(corpus, size="tiny")
    guide = pf.VAEGuide(model)
    good = {"model": model, "guide": guide, "corpus": corpus, "steps": 1, "validations": 1, "progress": False}
    wrong: dict[str, tuple[object, ...]] = {
        "model": (None, "vae", guide, pf.VAE, run.model, torch.nn.Linear(2, 2)),
        "guide": (None, "guide", model, run.guide, pf.VAEGuide, torch.nn.Linear(2, 2)),
        "corpus": (None, "good.txt", ["a text"], 3),
        "steps": (0, -1, 1.5, "x", NAN, float("inf"), True),
        "batch_size": (0, -1, 1.5, "x", NAN),
        "learning_rate": (0, -1.0, "x", NAN, float("inf")),
        "minutes": (0, -1.0, "x", NAN, float("inf")),
        "beta": (-1.0, "x", NAN, float("inf")),
        "seed": (-1, 1.5, "x"),
        "objective": ("loss", "", 3, "nowhere.Loss", "os.system", torch.nn.Linear),
        "kl_schedule": ("step", 3),
        "precision": ("16", 32, 16),
        "compile": ("yes", 3),
        "devices": (0, -1, 1.5),
        "validations": (0, -1, 1.5),
        "free_bits": (-1.0, NAN, "x"),
        "target_kl": (0.0, -1.0, NAN, "x"),
        "keep": (0.0, -1.0, 1.5, NAN, 0.5),
        "lambda_g": (1.0, -1.0, NAN),
        "ladder": ([], [0.0, -1.0], "x", [NAN], [0.5]),
        "out": (place.root, place.root / "good.txt", place.root / "nvae", "/proc/x"),
        "callback": (3,),
        "stepz": (3,),
        "lr": (0.1,),
    }
    for name, values in wrong.items():
        for value in values:
            given = {**good, name: value}
            yield f"{name} {str(value)[:30]!r}", partial(pf.fit, **given)
    yield "resume nothing", lambda: pf.fit(**{**good, "resume": True})


def run_calls(run: Any) -> Iterator[tuple[str, Call]]:
    for name, value in itertools.product(
        ("encode", "reconstruct", "bound", "posterior"), (3, [3], [None], ["word " * 300], [("a", "b")])
    ):
        yield f"{name} {str(value)[:20]}", partial(getattr(run, name), value)
    for options in ({"n": -1}, {"n": 1.5}, {"temperature": 0}, {"temperature": NAN}, {"top_p": 2.0},
                    {"top_k": -1}, {"prompt": "word " * 300}, {"conditions": ["a"]}, {"unknown": 3}):  # fmt: skip
        yield f"sample {str(options)[:30]}", partial(run.sample, **{"n": 1, **options})
    for steps in (0, -1, 1, 1.5, "x"):
        yield f"interpolate {steps}", partial(run.interpolate, "One", "Two", steps=steps)
    for options in (
        {"drop": [0]},
        {"drop": [99]},
        {"drop": "x"},
        {"scale": {1: 0.0}},
        {"scale": {1: NAN}},
        {"swap": {1: 2}},
    ):
        yield f"edit {options}", partial(run.edit, "One", **options)
    yield "swap of an nvae", lambda: run.swap("One", "Two", [1])
    for memory in (None, 3, torch.zeros(2, 3), pf.Mixture(torch.zeros(2, 3), torch.zeros(2, 3, 5))):
        yield f"decode {type(memory)}", partial(run.decode, memory)
    for path in ("nowhere", "", "/dev/null", ".", 3, None):
        yield f"load {path!r}", partial(pf.load, path)


def prior_calls() -> Iterator[tuple[str, Call]]:
    for value in (-1.0, NAN, float("inf"), "x", None):
        yield (
            f"delta {value}",
            lambda value=value: pf.priors.BoundedDirichletProcess(delta=value)(torch.ones(2, 3, dtype=torch.bool)),
        )
    for value in (NAN, float("inf"), -1.0, 0.0):
        yield f"concentration {value}", partial(pf.priors.BoundedDirichletProcess, concentration=value)


def model_calls(run: Any) -> Iterator[tuple[str, Call]]:
    for name, values in {
        "size": ("huge", 3, None),
        "width": (0, -8, 1.5, "x", 7),
        "layers": (0, -1, 1.5),
        "heads": (0, 3, -1),
        "dropout": (-0.1, 1.0, NAN, "x"),
        "activation": ("sin", 3),
        "weight_prior": ("x", 3, pf.priors.BoundedDirichletProcess, torch.nn.Linear(2, 2)),
        "base_measure": ("x", 3, torch.nn.Linear(2, 2)),
        "samples_per_component": (0, -1, 1.5),
        "unknown": (3,),
    }.items():
        for value in values:
            yield (
                f"{name} {str(value)[:30]}",
                partial(pf.NVAE.for_corpus, run.corpus, **{name: value}),
            )
    for corpus in (None, "good.txt", [], 3):
        yield f"corpus {corpus!r}", partial(pf.NVAE.for_corpus, corpus)
    for model in (None, "nvae", run.corpus, torch.nn.Linear(2, 2)):
        yield f"guide of {type(model)}", partial(pf.NVAEGuide, model)
    for alpha in ("exp", 3, None):
        yield f"alpha {alpha}", partial(pf.NVAEGuide, run.model, alpha=alpha)
