"""The table and the JSON of an evaluation."""

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pyroformer.inference.evaluation.report import Estimate, Evaluation, MetricResult
from pyroformer.inference.evaluation.verdict import validation_rate, validation_rate_per_text
from pyroformer.inference.runs.fitted import FittedModel
from pyroformer.inference.runs.folder import RunFolder

EVALUATION = Evaluation(
    {
        "bound": MetricResult(
            "-ELBO, beta = 1",
            {"nats/token": Estimate(121.94, 0.5), "nats/text": Estimate(1707.31), "perplexity": Estimate(None)},
            "log p(x)",
        ),
        "given": MetricResult("  given the length", {"nats/token": Estimate(1.234)}, "log p(x | n)"),
        "reconstruction": MetricResult(
            "reconstruction", {"nats/token": Estimate(0.38), "nats/text": Estimate(math.nan)}
        ),
        "exact": MetricResult("log-likelihood", {"nats/token": Estimate(3.0)}, "log p(x)", exact=True),
        "accuracy": MetricResult("token accuracy", {"share": Estimate(0.9617, math.inf)}),
        "kept": MetricResult("components", {"components": Estimate(9.31), "of the text's": Estimate(0.85)}),
    },
    {"texts": 3},
)


def test_table() -> None:
    assert EVALUATION.table().splitlines() == [
        "given texts: 3 texts; ± is one standard error over texts",
        "                     nats/token  nats/text  bits/byte  perplexity   bound on",
        "-ELBO, beta = 1     121.9 ± 0.5    1,707.3                  > 1e9   log p(x)",
        "  given the length         1.23                                     log p(x | n)",
        "reconstruction            0.380          -                          not a bound",
        "log-likelihood             3.00                                     log p(x), exact",
        "",
        "token accuracy   0.962 share",
        "components       9.31 components, 0.850 of the text's",
    ]


def test_a_narrow_terminal_has_a_table_of_its_width() -> None:
    assert EVALUATION.table(60).splitlines()[1:7] == [
        "                     nats/token  nats/text   bound on",
        "-ELBO, beta = 1     121.9 ± 0.5    1,707.3   log p(x)",
        "  given the length         1.23              log p(x | n)",
        "reconstruction            0.380          -   not a bound",
        "log-likelihood             3.00              log p(x), exact",
        "",
    ]
    assert EVALUATION.table(60).splitlines()[7] == "in a wider terminal: bits/byte, perplexity"
    assert EVALUATION.table(400) == EVALUATION.table()


def test_long_labels_go_on_in_the_next_line() -> None:
    costs = {"nats/token": Estimate(4.03, 0.17), "nats/text": Estimate(50.11, 2.71), "perplexity": Estimate(56.0)}
    results = {
        "objective": MetricResult("objective that was trained: elbo, KL held at 12 nats a text", costs),
        "match": MetricResult("exact match of 32 greedy reconstructions, mean posterior", {"share": Estimate(0.5)}),
    }
    evaluation = Evaluation(results, {"texts": 1000, "split": "test", "tokens": 47300, "bytes": 163500, "step": 800})
    lines = evaluation.table(80).splitlines()
    assert max(map(len, lines)) <= 80
    assert "objective that was trained: elbo, KL" in lines and "  held at 12 nats a text" in "\n".join(lines)
    assert " ".join(" ".join(lines).split()).count("4.03 ± 0.17") == 1


def nats(value: float) -> MetricResult:
    return MetricResult("", {"nats/text": Estimate(value, 0.1)})


def test_a_row_for_each_latent() -> None:
    active = {
        f"active{of}": MetricResult(
            "", {"above 0.01": Estimate(low), "above 0.2": Estimate(high), "of": Estimate(size)}
        )
        for of, low, high, size in [("_z_1", 8.0, 3.0, 32.0), ("_z_2", 0.0, 0.0, 32.0), ("", 8.0, 3.0, 64.0)]
    }
    kl = {
        f"kl_z_{k}": MetricResult("KL", {"nats/token": Estimate(0.1), "nats/text": Estimate(float(k))}) for k in (1, 2)
    }
    rate = {"rate": MetricResult("rate", {"nats/token": Estimate(0.2), "nats/text": Estimate(3.0)})}
    others = {
        f"{name}{of}": nats(value)
        for name in ("mutual_information", "marginal_kl", "sensitivity")
        for of, value in [("_z_1", 0.5), ("_z_2", -0.001), ("", 12.0)]
    }
    evaluation = Evaluation(kl | rate | others | active, {"texts": 900, "compared": 512}, ("z_1", "z_2"))
    assert evaluation.table().splitlines() == [
        "given texts: 900 texts",
        "      nats/token  nats/text  bits/byte  perplexity   bound on",
        "rate       0.200       3.00                          not a bound",
        "",
        "by latent, in nats/text: mutual information is at most ln 512 = 6.24; KL of all 900 texts, the rest of 512",
        "latent    KL  mutual information  marginal KL  active > 0.01  active > 0.2  sensitivity",
        "z_1     1.00               0.500        0.500         8 / 32        3 / 32        0.500",
        "z_2     2.00              -0.001       -0.001         0 / 32        0 / 32       -0.001",
        "all     3.00               12.00        12.00         8 / 64        3 / 64        12.00",
        "",
        "the latents cost 3.0 nats a text (their KL)",
    ]


def test_the_divergence_of_each_latent_is_that_of_its_parts() -> None:
    parts = {
        f"{name}{of}": nats(value)
        for name, value in (("mutual_information", 0.5), ("marginal_kl", 0.25))
        for of in ("_z_1", "")
    }
    compared = {f"compared_kl{of}": nats(0.75) for of in ("_z_1", "")}
    bound = {"kl_z_1": MetricResult("KL of z_1", {"nats/text": Estimate(0.9), "nats/token": Estimate(0.1)})}
    evaluation = Evaluation(bound | compared | parts, {"texts": 900, "compared": 512}, ("z_1",))
    lines = evaluation.table().splitlines()
    assert lines[2].startswith("KL of z_1       0.100      0.900"), "the term of the bound has a row of its own"
    assert lines[4].endswith("; over 512 of the 900 texts, with other draws than in the bound")
    assert lines[5:8] == [
        "latent  compared KL  mutual information  marginal KL",
        "z_1           0.750               0.500        0.250",
        "all           0.750               0.500        0.250",
    ]
    assert evaluation.table(50).splitlines()[-4:] == [
        "        compared       mutual  marginal",
        "latent        KL  information        KL",
        "z_1        0.750        0.500     0.250",
        "all        0.750        0.500     0.250",
    ]


def test_the_table_says_what_was_evaluated() -> None:
    about = {"split": "test", "texts": 182, "tokens": 3917, "bytes": 20111, "step": 1200}
    heading = (
        Evaluation({"accuracy": MetricResult("accuracy", {"": Estimate(0.9, 0.1)})}, about).table().splitlines()[0]
    )
    assert (
        heading == "test split: 182 texts, 3,917 tokens, 20,111 bytes; step 1,200; ± is one standard error over texts"
    )


@pytest.mark.parametrize(
    ("value", "shown"), [(-121.94, "-121.9"), (1707.31, "1,707.3"), (-1.234, "-1.23"), (0.12345, "0.123")]
)
def test_numbers_have_three_digits_or_so(value: float, shown: str) -> None:
    evaluation = Evaluation({"a": MetricResult("a", {"nats": Estimate(value)})}, {"texts": 1})
    assert evaluation.table().splitlines()[-1] == f"a   {shown} nats"


def test_a_perplexity_is_too_large_only_where_its_rate_is_known() -> None:
    evaluation = Evaluation(
        {"a": MetricResult("a", {"nats/token": Estimate(None), "perplexity": Estimate(None)})}, {"texts": 1}
    )
    assert evaluation.table().splitlines()[-1].split() == ["a", "-", "-", "not", "a", "bound"]


def test_the_table_says_nothing_of_what_it_lacks() -> None:
    bleu = {"bleu": MetricResult("BLEU", {"of 100": Estimate(0.5)})}
    lines = Evaluation(bleu, {"texts": 1, "tokens": 1, "bytes": 3}).table().splitlines()
    assert lines == ["given texts: 1 text, 1 token, 3 bytes", "", "BLEU   0.500 of 100"], "no costs, and no errors"


@pytest.mark.parametrize(
    ("rate", "verdict"),
    [
        (0.04, "the latents cost 0.04 nats a text (their KL), which is nothing: train anew with free_bits, target_kl"),
        (41.7, "the latents cost 41.7 nats a text (their KL)"),
    ],
)
def test_a_collapsed_model_is_told_from_one_that_uses_its_latents(rate: float, verdict: str) -> None:
    evaluation = Evaluation({"rate": nats(rate)}, {"texts": 9})
    assert evaluation.verdict.startswith(verdict) and evaluation.table().splitlines()[-1] == evaluation.verdict
    assert ("nothing" in evaluation.verdict) == (rate < 0.1)
    assert Evaluation({"accuracy": nats(1.0)}, {"texts": 9}).verdict == ""


@pytest.mark.parametrize(
    ("rows", "rate"),
    [
        (["1,valid,5,5,9", "2,train,6,6,9", "2,valid,1,2,9"], 3.0),  # that of the length is no latent's
        (["2,valid,5,5,9", "2,valid,1,2,9"], 3.0),  # the last, where a run was resumed
        (["2,valid,1,inf,9"], None),
        (["2,valid,1,,9"], None),
        (["1,valid,1,2,9", "2,train,1,2,9"], None),
        ([], None),
    ],
)
def test_the_rate_of_a_run_is_that_of_its_last_validation(rows: list[str], rate: float | None, tmp_path: Path) -> None:
    run: Any = FittedModel.__new__(FittedModel)
    run.folder, run.step, run.corpus = RunFolder(tmp_path), 2, SimpleNamespace(valid=SimpleNamespace())
    run.corpus.valid.lengths = np.array([1, 3])
    assert validation_rate(run) is None
    run.folder.metrics_file.write_text("\n".join(["step,split,kl_z_1,kl_z_2,kl_length", *rows]))
    assert validation_rate(run) == rate
    assert validation_rate_per_text(run) == (None if rate is None else 2 * rate)


def test_a_notebook_shows_a_table() -> None:
    assert repr(EVALUATION) == EVALUATION.table()
    html = EVALUATION._repr_html_()
    assert html.count("<tr>") == 1 + sum(len(result.units) for result in EVALUATION.metrics.values())
    assert "<td>-ELBO, beta = 1</td><td>nats/token</td><td>121.9 ± 0.5</td><td>log p(x)</td>" in html
    assert "tensor" not in html and "Estimate" not in html


def test_a_table_of_some_measures_of_each_latent() -> None:
    metrics = {f"sensitivity{of}": nats(value) for of, value in [("_z_1", 0.5), ("", 0.75)]}
    lines = Evaluation(metrics, {"texts": 9, "compared": 9}, ("z_1",)).table().splitlines()
    assert lines[2] == "by latent, in nats/text: mutual information is at most ln 9 = 2.20"
    assert lines[3:] == ["latent  sensitivity", "z_1           0.500", "all           0.750"]


def test_json_holds_numbers_that_are_finite_or_null() -> None:
    plain = json.loads(json.dumps(EVALUATION.as_dict(), allow_nan=False))
    assert plain["about"]["texts"] == 3
    bound = plain["metrics"]["bound"]
    assert bound["is_bound"] and bound["bound_on"] == "log p(x)" and not bound["is_exact"]
    assert bound["units"]["nats/token"] == {"value": 121.94, "standard_error": 0.5}
    assert bound["units"]["perplexity"]["value"] is None
    assert not plain["metrics"]["reconstruction"]["is_bound"]
    assert plain["metrics"]["reconstruction"]["units"]["nats/text"]["value"] is None
    assert plain["metrics"]["accuracy"]["units"]["share"]["standard_error"] is None
    assert plain["metrics"]["given"]["label"] == "given the length"


def test_metrics_by_name() -> None:
    assert EVALUATION["accuracy"].value == 0.9617
    assert EVALUATION["bound"]["nats/text"] == 1707.31
    assert "bound" in EVALUATION and list(EVALUATION)[0] == "bound" and str(EVALUATION) == EVALUATION.table()
    with pytest.raises(KeyError, match="there is no metric 'bleu': choose among bound, given"):
        EVALUATION["bleu"]
