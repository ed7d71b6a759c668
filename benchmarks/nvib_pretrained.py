r"""The dial of NVIB on a pretrained sentence encoder: what it changes, what stays, and whether it helps against noise.

    python benchmarks/nvib_pretrained.py --model FOLDER --data FOLDER [--out FILE]

The model is a BERT whose sentence embedding is the mean of its last states, such as all-MiniLM-L6-v2; the data are
``pairs.dev.tsv`` and ``pairs.test.tsv`` of SNLI (premise, hypothesis, label). Priors come from sentences of the first.

    rank         Spearman's correlation of the cosine similarities of pairs with those of the plain model
    prior        share of the attention that the prior's component has, a mean over layers
    vectors      share of vectors that some query gives at least 1 % of its attention, a mean over layers
    AUC          probability that an entailed pair is more similar than a contradictory one

A text is noisy in one of two ways: typing errors in 30 % of its words, or 30 % of its words dropped, in both sentences.
The strengths are those with the best mean AUC on noisy validation pairs; then test pairs are read once, with other
noise. Errors are those of 1,000 bootstrap samples of test pairs, which are the same for both models.
"""

import json
import math
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from reporting import argument_parser, evenly, markdown
from torch import Tensor

import pyroformer as pf

ALPHAS = (math.inf, 0.0, -1.0, -2.0, -3.0, -5.0)
SIGMAS = (0.0, 0.3)
SHARE = 0.3
KINDS = ("typing errors", "dropped words")
SEEDS = (0, 1, 2)
BATCH = 64

Encoder = Callable[[Sequence[str]], Tensor]


class Pairs(NamedTuple):
    """Premises, hypotheses, and True where one entails the other, False where they contradict."""

    premises: list[str]
    hypotheses: list[str]
    entailed: np.ndarray

    def similarities(self, encode: Encoder) -> np.ndarray:
        """The cosine similarity of each pair."""
        both = encode([*self.premises, *self.hypotheses])
        return (both[: len(self.premises)] * both[len(self.premises) :]).sum(-1).double().numpy()

    def noisy(self, kind: str, seed: int) -> "Pairs":
        """The pairs with noise in all texts."""
        texts = noise([*self.premises, *self.hypotheses], kind, seed)
        return self._replace(premises=texts[: len(self.premises)], hypotheses=texts[len(self.premises) :])


def read_pairs(path: Path, count: int) -> Pairs:
    """Pairs of a file that entail or contradict, evenly spaced."""
    rows = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()]
    lines = evenly(["\t".join(row) for row in rows if row[2] in "02"], count)
    premises, hypotheses, labels = zip(*(line.split("\t") for line in lines), strict=True)
    return Pairs(list(premises), list(hypotheses), np.array([label == "0" for label in labels]))


def noise(texts: Sequence[str], kind: str, seed: int) -> list[str]:
    """Texts with typing errors or without some of their words; at least one word stays."""
    rng = random.Random(f"{kind} {seed}")
    return [" ".join(_noisy(text.split(), kind, rng)) for text in texts]


def _noisy(words: list[str], kind: str, rng: random.Random) -> list[str]:
    if kind == "dropped words":
        kept = [word for word in words if rng.random() >= SHARE]
        return kept or [rng.choice(words)]
    return [_mistyped(word, rng) if rng.random() < SHARE else word for word in words]


def _mistyped(word: str, rng: random.Random) -> str:
    """A word with two letters exchanged, or one left out, doubled or replaced."""
    place, letter = rng.randrange(len(word)), rng.choice("abcdefghijklmnopqrstuvwxyz")
    head, own, rest = word[:place], word[place], word[place + 1 :]
    return rng.choice(
        [head + rest[:1] + own + rest[1:], head + rest or own, head + own + own + rest, head + letter + rest]
    )


def auc(similarities: np.ndarray, entailed: np.ndarray) -> float:
    """The probability that an entailed pair is more similar than a contradictory one; ties count half.

    NaN where all pairs are of one kind.
    """
    if entailed.all() or not entailed.any():
        return math.nan
    values, places, counts = np.unique(similarities, return_inverse=True, return_counts=True)
    ranks = (counts.cumsum() - (counts - 1) / 2)[places]
    n = int(entailed.sum())
    return float((ranks[entailed].sum() - n * (n + 1) / 2) / (n * (len(entailed) - n)))


def rank_correlation(x: np.ndarray, y: np.ndarray) -> float:
    """Spearman's, of values without ties."""
    return float(np.corrcoef(x.argsort().argsort(), y.argsort().argsort())[0, 1])


def encoder(model: Any, tokenizer: Any) -> Encoder:
    """Normalized means of the last states."""

    @torch.no_grad()
    def encode(texts: Sequence[str]) -> Tensor:
        order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
        parts = []
        for batch in batches(tokenizer, [texts[index] for index in order]):
            mask = batch["attention_mask"][..., None]
            states = (model(**batch).last_hidden_state * mask).sum(1) / mask.sum(1)
            parts.append(torch.nn.functional.normalize(states, dim=-1))
        return torch.cat(parts)[torch.tensor(order).argsort()]

    return encode


def batches(tokenizer: Any, texts: Sequence[str]) -> list[dict[str, Tensor]]:
    rows = (texts[start : start + BATCH] for start in range(0, len(texts), BATCH))
    return [dict(tokenizer(list(part), return_tensors="pt", padding=True, truncation=True)) for part in rows]


def turned(model: Any, tau_alpha: float, tau_sigma: float) -> None:
    pf.nvib.regularize(model, tau_alpha=tau_alpha, tau_sigma=tau_sigma)


def dial(model: Any, encode: Encoder, tokenizer: Any, pairs: Pairs) -> list[dict[str, float]]:
    """What each position of the dial changes on pairs without noise, and what stays."""
    turned(model, math.inf, 0.0)
    plain = pairs.similarities(encode)
    some = batches(tokenizer, evenly([*pairs.premises, *pairs.hypotheses], BATCH))
    rows = []
    for tau_sigma in SIGMAS:
        for tau_alpha in ALPHAS:
            turned(model, tau_alpha, tau_sigma)
            similarities = pairs.similarities(encode)
            kept = list(pf.nvib.kept(model, some).values())
            rows.append(
                {
                    "tau_alpha": tau_alpha,
                    "tau_sigma": tau_sigma,
                    "rank": rank_correlation(plain, similarities),
                    "prior": float(np.mean([layer.prior for layer in kept])),
                    "vectors": float(np.mean([layer.vectors for layer in kept])),
                    "auc": auc(similarities, pairs.entailed),
                }
            )
    return rows


def chosen(model: Any, encode: Encoder, pairs: Pairs) -> tuple[tuple[float, float], list[dict[str, float]]]:
    """The strengths with the best mean AUC on noisy pairs, and the AUC of all."""
    noisy = [pairs.noisy(kind, 100) for kind in KINDS]
    rows = []
    for tau_sigma in SIGMAS:
        for tau_alpha in ALPHAS:
            turned(model, tau_alpha, tau_sigma)
            scores = [auc(each.similarities(encode), each.entailed) for each in noisy]
            rows.append({"tau_alpha": tau_alpha, "tau_sigma": tau_sigma, "auc": float(np.mean(scores))})
    best = max(rows, key=lambda row: row["auc"])
    return (best["tau_alpha"], best["tau_sigma"]), rows


def compared(model: Any, encode: Encoder, pairs: Pairs, strengths: tuple[float, float]) -> dict[str, dict[str, float]]:
    """AUC of both models on test pairs, and the difference with its bootstrap error."""
    results = {}
    for kind in ("no noise", *KINDS):
        sets = [pairs] if kind == "no noise" else [pairs.noisy(kind, seed) for seed in SEEDS]
        turned(model, math.inf, 0.0)
        plain = [each.similarities(encode) for each in sets]
        turned(model, *strengths)
        other = [each.similarities(encode) for each in sets]
        rng = np.random.default_rng(0)
        draws = [rng.integers(len(pairs.entailed), size=len(pairs.entailed)) for _ in range(1000)]
        both = [[_mean_auc(each, pairs.entailed, draw) for each in (plain, other)] for draw in draws]
        means = [_mean_auc(each, pairs.entailed, slice(None)) for each in (plain, other)]
        results[kind] = {
            "plain": means[0],
            "plain_error": float(np.nanstd([one for one, _ in both], ddof=1)),
            "regularized": means[1],
            "difference": means[1] - means[0],
            "difference_error": float(np.nanstd([two - one for one, two in both], ddof=1)),
        }
    return results


def _mean_auc(similarities: Sequence[np.ndarray], entailed: np.ndarray, rows: Any) -> float:
    return float(np.mean([auc(each[rows], entailed[rows]) for each in similarities]))


def measured(model: Any, tokenizer: Any, valid: Pairs, test: Pairs) -> dict[str, Any]:
    """All results of one model."""
    start = time.process_time()
    encode = encoder(model.eval(), tokenizer)
    before = test.similarities(encode)
    pf.nvib.wrap(model)
    identity = float(np.abs(test.similarities(encode) - before).max())
    pf.nvib.fit_priors(model, batches(tokenizer, [*valid.premises, *valid.hypotheses]))
    strengths, grid = chosen(model, encode, valid)
    spread = [float(layer.log_alpha_std) for layer in pf.nvib.layers(model).values()]
    return {
        "pairs": {"valid": len(valid.premises), "test": len(test.premises)},
        "identity": identity,
        "log_alpha_std": spread,
        "dial": dial(model, encode, tokenizer, valid),
        "validation": grid,
        "chosen": {"tau_alpha": strengths[0], "tau_sigma": strengths[1]},
        "test": compared(model, encode, test, strengths),
        "seconds": time.process_time() - start,
    }


def report(results: dict[str, Any]) -> str:
    """The tables as markdown."""
    dial = [
        [f"{row['tau_sigma']:g}", f"{row['tau_alpha']:g}", f"{row['rank']:.3f}", f"{100 * row['prior']:.0f} %",
         f"{100 * row['vectors']:.0f} %", f"{row['auc']:.3f}"]
        for row in results["dial"]
    ]  # fmt: skip
    test = [
        [kind, f"{row['plain']:.3f} ± {row['plain_error']:.3f}", f"{row['regularized']:.3f}",
         f"{row['difference']:+.4f} ± {row['difference_error']:.4f}"]
        for kind, row in results["test"].items()
    ]  # fmt: skip
    strengths = results["chosen"]
    name = f"tau_alpha {strengths['tau_alpha']:g}, tau_sigma {strengths['tau_sigma']:g}"
    first = markdown(["tau_sigma", "tau_alpha", "rank", "prior", "vectors", "AUC"], dial, left=0)
    return f"{first}\n{markdown(['AUC', 'plain', name, 'difference'], test)}"


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--model", type=Path, required=True, help="folder of a BERT with its tokenizer")
    parser.add_argument("--data", type=Path, required=True, help="folder with pairs.dev.tsv and pairs.test.tsv")
    parser.add_argument("--valid", type=int, default=200, help="number of pairs that strengths are chosen on")
    parser.add_argument("--test", type=int, default=500, help="number of pairs that are reported")
    parser.add_argument("--out", type=Path, help="file to write the results to, as JSON")
    options = parser.parse_args()
    from transformers import AutoModel, AutoTokenizer

    model, tokenizer = AutoModel.from_pretrained(options.model), AutoTokenizer.from_pretrained(options.model)
    valid = read_pairs(options.data / "pairs.dev.tsv", options.valid)
    test = read_pairs(options.data / "pairs.test.tsv", options.test)
    results = measured(model, tokenizer, valid, test)
    print(report(results))
    print(f"identity {results['identity']:.1e}, {results['seconds']:.0f} seconds of CPU")
    if options.out is not None:
        text = json.dumps(results, indent=1).replace("Infinity", '"inf"')  # which is no JSON
        options.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
