"""Evaluation: arithmetic by hand, the same metrics whatever the batch, and no bound that is not one."""

import json
import math
from typing import Any

import jaxtyping
import pytest
import torch

from pyroformer.guides.della import DELLAGuide
from pyroformer.guides.nvae import NVAEGuide
from pyroformer.inference.data.corpus import Corpus
from pyroformer.inference.evaluation.context import EvaluationOptions
from pyroformer.inference.evaluation.cross_attention import attention_shares, cross_attention
from pyroformer.inference.evaluation.evaluate import evaluate, text_bounds
from pyroformer.inference.evaluation.report import Evaluation
from pyroformer.inference.run import Run
from pyroformer.inference.runs.folder import RunFolder
from pyroformer.models.base import Model
from pyroformer.models.della import DELLA
from pyroformer.models.language_model import LanguageModel
from pyroformer.models.nvae import NVAE

TEXTS = [f"{'Ones' if n % 3 else 'A few'} and {n * n * n} more." for n in range(40)]
SOME = TEXTS[:7]
ELBO_TRAINED = {"name": "elbo", "is_bound": True, "kl_weights": {"weights": 1.0, "vectors": 1.0}}


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return Corpus.from_texts(TEXTS, vocabulary=270, max_length=24)


def make_run(corpus: Corpus, name: str, objective: dict[str, Any] = ELBO_TRAINED, **options: Any) -> Run:
    """An untrained run with random weights everywhere."""
    torch.manual_seed(0)
    kinds: dict[str, type[Model]] = {"nvae": NVAE, "della": DELLA, "lm": LanguageModel}
    if name == "nvae":
        options.setdefault("base_measure", "gaussian")
    model: Any = kinds[name].for_corpus(corpus, width=16, layers=2, heads=2, **options)
    guide = {"nvae": NVAEGuide, "della": DELLAGuide, "lm": lambda model: None}[name](model)
    for module in (model, guide):
        for parameter in [] if module is None else module.parameters():
            parameter.data.add_(0.2 * torch.randn_like(parameter))
    if name != "nvae":
        objective = objective | {"kl_weights": {}}
    return Run(model, guide, corpus, RunFolder(corpus.folder), {"objective": objective}, 0)


@pytest.fixture(scope="module")
def nvae(corpus: Corpus) -> Run:
    return make_run(corpus, "nvae")


@pytest.fixture(scope="module")
def lm(corpus: Corpus) -> Run:
    return make_run(corpus, "lm")


@pytest.fixture(scope="module")
def evaluation(nvae: Run) -> Evaluation:
    return nvae.evaluate(SOME, num_particles=3)


def nats(evaluation: Evaluation, name: str) -> float:
    value = evaluation[name]["nats/text"]
    assert value is not None
    return value


def test_the_bound_is_the_sum_of_its_parts(evaluation: Evaluation) -> None:
    rate = nats(evaluation, "kl_weights") + nats(evaluation, "kl_vectors")
    assert nats(evaluation, "rate") == pytest.approx(rate)
    assert nats(evaluation, "bound") == pytest.approx(
        nats(evaluation, "reconstruction") + rate + nats(evaluation, "kl_length")
    )
    for name in ("bound", "importance_weighted"):
        conditional = nats(evaluation, f"{name}_given_length")
        assert nats(evaluation, name) - conditional == pytest.approx(nats(evaluation, "kl_length"))


def test_units_by_hand(nvae: Run, evaluation: Evaluation) -> None:
    tokens = sum(len(nvae.tokenizer.encode(text)) for text in SOME)
    size = sum(len(text.encode()) for text in SOME)
    assert (evaluation.about["texts"], evaluation.about["tokens"], evaluation.about["bytes"]) == (7, tokens, size)
    total = nats(evaluation, "bound") * 7
    assert evaluation["bound"]["nats/token"] == pytest.approx(total / tokens)
    assert evaluation["bound"]["bits/byte"] == pytest.approx(total / math.log(2) / size)
    if total / tokens < math.log(1e9):
        assert evaluation["bound"]["perplexity"] == pytest.approx(math.exp(total / tokens))
    else:
        assert evaluation["bound"]["perplexity"] is None


@pytest.mark.parametrize("name", ["nvae", "della"])
def test_batches_and_other_texts_change_no_number(corpus: Corpus, name: str) -> None:
    run, some = make_run(corpus, name), SOME[:4]
    whole = evaluate(run, some, num_particles=3)
    for texts, size in ((some, 1), (some[::-1], 3)):
        other = evaluate(run, texts, num_particles=3, batch_size=size)
        assert list(other) == list(whole)
        company = {"mutual_information", "marginal_kl", "sensitivity", "compared_kl", "active"}  # are of all texts
        for metric in whole:
            if texts is some or not any(metric.startswith(each) for each in company):
                assert other[metric].value == pytest.approx(whole[metric].value, rel=1e-4, abs=1e-4), metric
    bounds = run.bound(some, num_particles=3)
    assert -float(bounds.mean()) == pytest.approx(nats(whole, "importance_weighted"), rel=1e-6)
    alone = evaluate(run, some[3:4], metrics=["bound", "importance_weighted"], num_particles=3)
    assert nats(alone, "importance_weighted") == pytest.approx(-float(bounds[3]), rel=1e-6)
    second = evaluate(run, some, metrics=["accuracy_sampled"], num_particles=3)
    assert second["accuracy_sampled"] == whole["accuracy_sampled"], "whatever else is measured"


def test_bounds_are_named_and_nothing_else_is(evaluation: Evaluation) -> None:
    bounds = {name: evaluation[name].bound_on for name in evaluation if evaluation[name].bound_on}
    assert bounds == {
        "bound": "log p(x)",
        "importance_weighted": "log p(x)",
        "bound_given_length": "log p(x | n)",
        "importance_weighted_given_length": "log p(x | n)",
        "objective": "log p(x)",
    }
    assert not any(evaluation[name].exact for name in evaluation)
    assert nats(evaluation, "objective") == pytest.approx(nats(evaluation, "bound"))


@pytest.mark.parametrize(
    "objective",
    [
        {"name": "nvib", "is_bound": False, "kl_weights": {"weights": 1.0, "vectors": 1e-3}},
        {"name": "elbo", "is_bound": True, "kl_weights": {"weights": 0.5, "vectors": 0.5}},
    ],
    ids=["nvib", "beta"],
)
def test_a_trained_objective_that_is_no_bound_is_not_called_one(
    corpus: Corpus, evaluation: Evaluation, objective: dict[str, Any]
) -> None:
    trained = make_run(corpus, "nvae", objective).evaluate(SOME, num_particles=3)
    assert trained["objective"].bound_on is None and objective["name"] in trained["objective"].label
    for name in ("kl_vectors", "kl_weights", "kl_length"):  # exact, whatever the objective
        assert nats(trained, name) == pytest.approx(nats(evaluation, name))


def test_generated_texts_are_compared(nvae: Run) -> None:
    evaluation = nvae.evaluate(SOME, num_particles=1, samples=5)
    assert {"self_bleu", "reference_bleu", "distinct_2"} <= set(evaluation) and "5 texts" in evaluation[
        "self_bleu"
    ].label
    assert evaluation.about["samples"] == 5
    for wrong in (-1, 1):
        with pytest.raises(ValueError, match=f"samples is {wrong}: give 0 for none, or at least 2"):
            nvae.evaluate(SOME, num_particles=1, samples=wrong)


def test_accuracy_is_that_of_texts_on_their_own(nvae: Run, evaluation: Evaluation) -> None:
    model: Any = nvae.model
    hits = count = 0
    for text in SOME:
        tokens = torch.tensor([nvae.tokenizer.encode(text)])
        with torch.no_grad():
            logits = model.eval().likelihood(nvae.encode(text).memory(), None).likelihood(tokens).logits()
        hits += int((logits.argmax(-1) == tokens).sum())
        count += tokens.numel()
    assert evaluation["accuracy"].value == pytest.approx(hits / count)


def test_a_language_model_has_log_p_itself(lm: Run) -> None:
    model: Any = lm.model
    with torch.no_grad():
        each = [model.eval().likelihood().likelihood(t).log_prob(t) for t in map(as_tensor(lm), SOME)]
    evaluation = lm.evaluate(SOME)
    assert list(evaluation) == ["bound", "accuracy"]
    assert evaluation["bound"].exact and evaluation["bound"].bounds == "log p(x), exact"
    assert nats(evaluation, "bound") == pytest.approx(-float(torch.cat(each).mean()), rel=1e-5)
    torch.testing.assert_close(lm.bound(SOME), torch.cat(each).double(), atol=1e-4, rtol=1e-5)


def as_tensor(run: Run) -> Any:
    return lambda text: torch.tensor([run.tokenizer.encode(text)])


def test_bounds_of_single_texts(nvae: Run) -> None:
    bounds = nvae.bound(SOME, num_particles=2)
    assert bounds.shape == (7,) and bounds.dtype == torch.float64 and bounds.isfinite().all()
    assert nvae.bound(SOME[0], num_particles=2).shape == (1,)
    assert torch.equal(bounds, nvae.bound(SOME, num_particles=2))
    assert nvae.bound([]).shape == (0,) and nvae.bound([]).dtype == torch.float64


def test_the_bound_of_a_text_does_not_depend_on_its_company(nvae: Run) -> None:
    together = nvae.bound(SOME, num_particles=3)
    torch.testing.assert_close(torch.cat([nvae.bound([text], num_particles=3) for text in SOME]), together)
    torch.testing.assert_close(nvae.bound(SOME[::-1], num_particles=3).flip(0), together)
    torch.testing.assert_close(text_bounds(nvae, SOME, 3, batch_size=2), together)
    assert not torch.equal(nvae.bound(SOME, num_particles=3, seed=1), together)
    assert (nvae.bound(SOME, num_particles=65) != together).all()  # more draws than fit into one batch of copies
    with pytest.raises(ValueError, match="num_particles is 0: give a whole number of at least 1"):
        nvae.bound(SOME, num_particles=0)


def test_every_number_is_finite_or_null(corpus: Corpus) -> None:
    run = make_run(corpus, "nvae")
    assert isinstance(run.guide, NVAEGuide)
    run.guide.mean.weight.data.mul_(1e3)  # means far from the prior: a huge divergence
    evaluation = run.evaluate(SOME, num_particles=2)
    plain = json.loads(json.dumps(evaluation.as_dict(), allow_nan=False))
    assert plain["metrics"]["bound"]["units"]["perplexity"]["value"] is None
    assert plain["metrics"]["bound"]["units"]["nats/token"]["value"] > 100
    assert " > 1e9 " in evaluation.table(), "a perplexity that is too large to mean anything"


def test_one_text_has_no_standard_error(nvae: Run) -> None:
    assert nvae.evaluate(SOME[:1], num_particles=1)["bound"].units["nats/text"].error is None


def test_nothing_is_left_changed_and_the_seed_decides(nvae: Run, evaluation: Evaluation) -> None:
    assert nvae.guide is not None
    nvae.model.train(), nvae.guide.train()
    state = torch.get_rng_state()
    assert nvae.evaluate(SOME, num_particles=3) == evaluation
    assert nats(nvae.evaluate(SOME, num_particles=3, seed=1), "bound") != nats(evaluation, "bound")
    assert torch.equal(state, torch.get_rng_state()) and torch.is_grad_enabled()
    assert all(part.training for part in (*nvae.model.modules(), *nvae.guide.modules()))


def test_limit_takes_texts_from_everywhere(lm: Run) -> None:
    evaluation = lm.evaluate(split="train", limit=3)
    assert evaluation.about["texts"] == 3 and evaluation.about["split"] == "train"
    assert lm.evaluate(split="train", limit=10_000).about["texts"] == len(lm.corpus.train)


@pytest.mark.parametrize(("overlong", "pairs"), [("split", False), ("drop", False), ("drop", True)])
def test_texts_that_are_split_or_dropped_are_counted(overlong: Any, pairs: bool) -> None:
    texts = [("few" if n % 2 else "many", text) if pairs else text for n, text in enumerate(TEXTS)]
    corpus = Corpus.from_texts(texts, vocabulary=270, max_length=24, overlong=overlong)
    run, long = make_run(corpus, "della" if pairs else "lm"), " and so on" * 30
    given: list[Any] = [*texts[:2], ("few", long) if pairs else long]
    pieces = len(corpus.encode(given))
    assert pieces == 2 if overlong == "drop" else pieces > 3
    note = f"given 3 texts (1 longer than 24 tokens {'dropped' if overlong == 'drop' else 'split'}): {pieces} texts, "
    assert run.evaluate(given, metrics=["bound"]).table().startswith(note)
    assert run.evaluate(texts[:2], metrics=["bound"]).table().startswith("given texts: 2 texts, ")


def test_attention_is_shared_among_the_components_there_are(nvae: Run) -> None:
    decoder: Any = nvae.model.decoder
    batch = nvae.batch(SOME[:3])
    assert batch.tokens is not None and batch.mask is not None
    memory = nvae.encode(SOME[:3]).memory()
    nvae.model.eval()
    weights, inputs = cross_attention(decoder, batch.tokens, memory), []
    hooks = [b.cross.register_forward_pre_hook(lambda _, given: inputs.append(given[0])) for b in decoder.blocks]
    decoder(batch.tokens, memory)
    for block, hook, x, each in zip(decoder.blocks, hooks, inputs, weights, strict=True):
        torch.testing.assert_close(each, block.cross.attention_weights(x, memory))
        hook.remove()
    assert weights.shape == (2, 3, 2, batch.tokens.shape[1], memory.components)
    torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]))
    shares = attention_shares(decoder, batch.tokens, batch.mask, memory)
    assert memory.mask is not None and not shares[~memory.mask].any()
    torch.testing.assert_close(shares.sum(-1), torch.ones(3))
    expected = torch.stack([each[:n].mean(0) for each, n in zip(weights.mean((0, 2)), batch.lengths, strict=True)])
    torch.testing.assert_close(shares, expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_particles": 0}, "num_particles is 0: give a positive whole number"),
        ({"limit": 0}, r"limit is 0: give a positive whole number\.$"),
        ({"samples": 1}, "samples is 1: give 0 for none, or at least 2"),
        ({"samples": -1}, "samples is -1: give 0 for none, or at least 2"),
        ({"batch_size": -1}, "batch_size is -1"),
        (
            {"reconstructions": 0},
            r"reconstructions is 0: give .*, or metrics .* such as metrics=\['bound', 'rate'\]\.$",
        ),
        ({"compared": 0}, r"compared is 0: give .*, or metrics that need none, such as metrics=\['bound', 'rate'\]\.$"),
        ({"num_particles": 2.5}, "num_particles is 2.5: give a whole number"),
        ({"limit": 2.5}, "limit is 2.5: give a whole number"),
        ({"min_weight": 1.5}, "min_weight is 1.5: give a weight from 0 to below 1"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    unchecked = object.__new__(EvaluationOptions)  # without the tests' own checks of types
    vars(unchecked).update(options)
    with pytest.raises(ValueError, match=message):
        unchecked.__post_init__()


def test_a_bound_and_a_rate_need_no_reconstructions_and_compare_no_texts(nvae: Run) -> None:
    assert not {"reconstructions", "compared"} & set(nvae.evaluate(SOME, metrics=["bound", "rate"]).about)


def test_texts_are_given_or_a_split(lm: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    about = [lm.evaluate(*texts, metrics=["bound"], limit=2).about for texts in ((), (SOME[0],))]
    assert [(part["texts"], part["split"]) for part in about] == [(2, "test"), (1, None)]
    assert text_bounds(lm, SOME[:1], 0).shape == (1,), "a number of draws is not read where nothing is drawn"
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users have it
    split: Any = "dev"
    with pytest.raises(ValueError, match="there is no split 'dev': give train, valid, test"):
        lm.evaluate(split=split)


def test_there_must_be_texts_and_batches(lm: Run) -> None:
    with pytest.raises(ValueError, match="there are no texts to evaluate on"):
        lm.evaluate([])
    with pytest.raises(ValueError, match="min_weight is 1.5"):
        lm.evaluate(SOME, min_weight=1.5)
    for size in (0, -1):
        with pytest.raises(ValueError, match=f"batch_size is {size}: give a whole number of at least 1"):
            text_bounds(lm, SOME, batch_size=size)


def test_texts_are_written_again_without_the_vectors_that_weigh_little(nvae: Run, evaluation: Evaluation) -> None:
    thin = nvae.evaluate(SOME, num_particles=3, min_weight=0.99)
    reconstructed = nvae.reconstruct(SOME, min_weight=0.99)
    assert thin["exact_match"].value == sum(item.exact for item in reconstructed) / len(SOME)
    assert "mean posterior without vectors below 0.99" in thin.table() and thin.about["min_weight"] == 0.99
    assert nats(thin, "importance_weighted") == nats(evaluation, "importance_weighted")  # of the whole mixture
    assert thin["kept_alpha"].value == evaluation["kept_alpha"].value


def test_there_is_nothing_to_drop_where_nothing_is_latent(lm: Run) -> None:
    with pytest.raises(ValueError, match="a LanguageModel has no latents"):
        lm.evaluate(SOME, min_weight=0.1)
