"""Our language model against transformers' GPT2LMHeadModel: same sizes, texts, batches, optimizer, number of steps.

    python benchmarks/language_model.py --data FOLDER_OR_FILE --steps 600 [--out FILE]

transformers      GPT2LMHeadModel
by default        our decoder as ``pyroformer fit lm`` makes it: Llama's blocks
as GPT-2          our decoder with GPT-2's blocks, positions and initial weights
sinusoidal        the same with sinusoidal positions and initial weights of std 1/sqrt(width)

All are trained on the batches of one training stream, step by step in turn, without dropout, and are evaluated on the
same held-out texts in nats per token, with their ends. ``transformers`` must be installed.
"""

import argparse
import math
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from learner import Learner, Loss, learn_in_turn
from reporting import argument_parser, markdown, show
from resumable import FORMER, parameters
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel

from pyroformer.inference.data.corpus import Corpus
from pyroformer.inference.objectives.elbo import ELBO
from pyroformer.models.batch import BOS, EOS, Batch
from pyroformer.models.language_model import LanguageModel


def ours(corpus: Corpus, **options: Any) -> tuple[nn.Module, Loss]:
    objective = ELBO()(LanguageModel.for_corpus(corpus, **options), None)
    return objective, objective


def theirs(corpus: Corpus, width: int, layers: int, heads: int) -> tuple[nn.Module, Loss]:
    config = GPT2Config(
        vocab_size=corpus.vocabulary, n_positions=corpus.max_length, n_embd=width, n_layer=layers, n_head=heads,
        embd_pdrop=0.0, resid_pdrop=0.0, attn_pdrop=0.0, bos_token_id=BOS, eos_token_id=EOS,
    )  # fmt: skip
    model = GPT2LMHeadModel(config)

    def loss(batch: Batch) -> Tensor:
        assert batch.tokens is not None and batch.mask is not None
        inputs = F.pad(batch.tokens[:, :-1], (1, 0), value=BOS)
        logits = model(inputs).logits.transpose(1, 2)
        nats = F.cross_entropy(logits, batch.tokens, reduction="none") * batch.mask
        return (batch.weight * nats.sum(-1)).sum()

    return model, loss


def main() -> None:
    parser = argument_parser(
        __doc__, steps=600, batch_size=32, learning_rate=2e-3, vocabulary=4000, seed=0, width=128, layers=2, heads=4
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, help="file to write the table to as well")
    arguments = parser.parse_args()
    corpus = Corpus.from_file(arguments.data, vocabulary=arguments.vocabulary, max_length=64)
    sizes = {name: getattr(arguments, name) for name in ("width", "layers", "heads")}
    learners = {}
    for name, make in {
        "transformers": lambda: theirs(corpus, **sizes),
        "by default": lambda: ours(corpus, **sizes),
        "as GPT-2": lambda: ours(corpus, **sizes, **FORMER),
        "sinusoidal": lambda: ours(corpus, **sizes, **FORMER | {"positions": "sinusoidal", "init_std": None}),
    }.items():
        torch.manual_seed(arguments.seed)
        learners[name] = Learner(*make(), arguments.learning_rate)
    learn_in_turn(learners, corpus, arguments.batch_size, arguments.steps, arguments.seed)
    show(table(learners, corpus, arguments), arguments.out)


def table(learners: dict[str, Learner], corpus: Corpus, arguments: argparse.Namespace) -> str:
    """Losses, and times of the fastest step: other load on the machine can only increase a time."""
    base, rows = learners["transformers"], []
    reference = base.held_out(corpus.valid)
    for name, learner in learners.items():
        loss = learner.held_out(corpus.valid)
        pace = min(learner.seconds) / min(base.seconds)
        size = f"{parameters(learner.network):,}"
        rows.append([name, size, f"{loss:.4f}", f"{loss / reference:.4f}", f"{math.exp(loss):.1f}", f"{pace:.2f}"])
    head = ["model", "parameters", "held-out nats/token", "ratio", "perplexity", "time of a step, ratio"]
    return (
        f"torch {torch.__version__}, {torch.get_num_threads()} threads; {corpus.summary()}; width {arguments.width}, "
        f"{arguments.layers} layers, {arguments.steps} steps of {arguments.batch_size} texts, seed {arguments.seed}"
        f"\n\n{markdown(head, rows)}"
    )


if __name__ == "__main__":
    main()
