"""Our language model against transformers' GPT2LMHeadModel: same sizes, texts, batches, optimiser, number of steps.

    python benchmarks/language_model.py --data FOLDER_OR_FILE --steps 600

Both learn from the batches of one training stream, teacher-forced with the same shift, and are scored on the same
held-out texts in nats per token, their ends counted. ``transformers`` must be installed.
"""

import argparse
import math
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel

from pyroformer.inference.batches import TrainingStream, once
from pyroformer.inference.corpus import Corpus
from pyroformer.inference.elbo import ELBO
from pyroformer.inference.schedules import warmup_cosine
from pyroformer.models.batch import BOS, EOS, Batch
from pyroformer.models.language_model import LanguageModel

Loss = Callable[[Batch], Tensor]  # nats per text of a batch, weighted


def ours(corpus: Corpus, **network: int) -> tuple[nn.Module, Loss]:
    model = LanguageModel.for_corpus(corpus, dropout=0.1, **network)
    objective = ELBO()(model, None)
    return objective, objective


def theirs(corpus: Corpus, width: int, layers: int, heads: int) -> tuple[nn.Module, Loss]:
    config = GPT2Config(
        vocab_size=corpus.vocabulary, n_positions=corpus.window, n_embd=width, n_layer=layers, n_head=heads,
        bos_token_id=BOS, eos_token_id=EOS,
    )  # fmt: skip
    model = GPT2LMHeadModel(config)

    def loss(batch: Batch) -> Tensor:
        assert batch.tokens is not None and batch.mask is not None
        inputs = F.pad(batch.tokens[:, :-1], (1, 0), value=BOS)
        logits = model(inputs).logits.transpose(1, 2)
        nats = F.cross_entropy(logits, batch.tokens, reduction="none") * batch.mask
        return (batch.weight * nats.sum(-1)).sum()

    return model, loss


def train(network: nn.Module, loss: Loss, corpus: Corpus, arguments: argparse.Namespace) -> float:
    """Seconds that the steps took."""
    decay = [p for p in network.parameters() if p.ndim >= 2]
    rest = [p for p in network.parameters() if p.ndim < 2]
    groups = [{"params": decay, "weight_decay": 0.01}, {"params": rest, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, lr=arguments.learning_rate, betas=(0.9, 0.98))
    network.train()
    per_text = float(corpus.train.lengths.mean())
    stream: Iterator[Batch] = iter(TrainingStream(corpus.train, arguments.batch_size, seed=arguments.seed))
    start = time.perf_counter()
    for step, batch in enumerate(islice(stream, arguments.steps)):
        for group in optimiser.param_groups:
            group["lr"] = arguments.learning_rate * warmup_cosine(step / arguments.steps)
        optimiser.zero_grad()
        (loss(batch) / per_text).backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
    return time.perf_counter() - start


@torch.no_grad()
def held_out(network: nn.Module, loss: Loss, corpus: Corpus) -> float:
    """Nats per token over the validation texts."""
    network.eval()
    nats = tokens = 0.0
    for indices, batch in once(corpus.valid, 64):
        nats += float(loss(batch)) * len(indices)
        tokens += float(corpus.valid.lengths[indices].sum())
    return nats / tokens


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--learning_rate", type=float, default=1e-3)
    parser.add_argument("--vocabulary", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--heads", type=int, default=4)
    arguments = parser.parse_args()
    corpus = Corpus.read(arguments.data, vocabulary=arguments.vocabulary, window=64)
    network = {name: getattr(arguments, name) for name in ("width", "layers", "heads")}
    print(corpus.describe())
    print("| model | parameters | held-out nats/token | perplexity | seconds |\n|---|---:|---:|---:|---:|")
    losses = {}
    for name, make in {"pyroformer": ours, "transformers": theirs}.items():
        torch.manual_seed(arguments.seed)
        module, loss = make(corpus, **network)
        seconds = train(module, loss, corpus, arguments)
        losses[name] = held_out(module, loss, corpus)
        parameters = sum(p.numel() for p in module.parameters())
        print(
            f"| {name} | {parameters:,} | {losses[name]:.4f} | {math.exp(losses[name]):.1f} | {seconds:.0f} |",
            flush=True,
        )
    print(
        f"\nratio {losses['pyroformer'] / losses['transformers']:.4f}, seed {arguments.seed}, {arguments.steps} steps"
    )


if __name__ == "__main__":
    main()
