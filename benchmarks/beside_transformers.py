"""Training steps and decoding beside transformers' on models of equal size; a folder of pretrained weights if given.

    python benchmarks/beside_transformers.py [--model FOLDER] [--texts 16 --length 64 --new 64 --rounds 3]

step        loss and gradients of all weights on the same texts, without an optimizer
greedy      the most probable token, `generate(do_sample=False)`
sampled     from the model's own distribution
top-k 50    from the 50 most probable tokens
top-p 0.9   from the nucleus

No text ends before all its tokens are written. Both sides take turns in one process, and a ratio is one of fastest
rounds, above 1 where we are ahead. Times on a CPU are those of the process, on one thread unless --threads says
otherwise: other load takes turns with it, and both sides suffer alike from what it does to caches and memory.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pyro
import torch
from measuring import seconds
from reporting import argument_parser, markdown
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

import pyroformer as pf
from pyroformer.inference.generation.decoding import Decoding, uniforms
from pyroformer.inference.objectives.elbo import ELBO
from pyroformer.inference.training.compiled import NO_VALIDATION
from pyroformer.models.batch import BOS, EOS, PAD, Batch
from pyroformer.models.transformer.config import TransformerConfig
from pyroformer.models.transformer.text_distribution import AutoregressiveText

VOCABULARY = 4000  # of random models


class Sides(NamedTuple):
    """A model of ours and one of transformers, of equal size."""

    ours: Any
    theirs: Any


def main() -> None:
    parser = argument_parser(__doc__, texts=16, new=64, rounds=3, threads=1)
    parser.add_argument("--model", type=Path, help="a folder in Hugging Face format")
    parser.add_argument("--length", type=int, default=64, help="tokens of a text in the training step")
    parser.add_argument("--only", nargs="+", default=list(WORK), choices=WORK, help="which kinds of work")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(report(options))


def report(options: argparse.Namespace) -> str:
    """A row for each model and kind of work."""
    rows = []
    for name, make in models(options).items():
        sides = make()
        for work in options.only:
            with pyro.settings.context(**NO_VALIDATION):
                ways = dict(enumerate(WORK[work](sides, options)))
                ours, theirs = seconds(ways, options.rounds, warm_ups=0, clock=time.process_time).values()
            rows.append([name, work, f"{ours:.3g} s", f"{theirs:.3g} s", f"{theirs / ours:.2f}"])
    return markdown(["model", "work", "ours", "transformers", "transformers / ours"], rows, left=2)


def models(options: argparse.Namespace) -> dict[str, Callable[[], Sides]]:
    longest = max(options.length, options.new) + 1
    if options.model is not None:
        return {options.model.name: lambda: pretrained(options.model, longest)}
    return {"GPT-2's form, width 256": lambda: gpt2(longest), "Llama's form, width 256": lambda: llama(longest)}


def gpt2(longest: int) -> Sides:
    config = GPT2Config(
        vocab_size=VOCABULARY, n_positions=longest, n_embd=256, n_layer=4, n_head=4,
        embd_pdrop=0.0, resid_pdrop=0.0, attn_pdrop=0.0,
    )  # fmt: skip
    size: dict[str, Any] = {"width": 256, "layers": 4, "heads": 4, "positions": "learned"}
    return Sides(pf.LanguageModel(TransformerConfig(VOCABULARY, max_length=longest, **size)), GPT2LMHeadModel(config))


def llama(longest: int) -> Sides:
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=256, intermediate_size=768, num_hidden_layers=4, num_attention_heads=8,
        num_key_value_heads=4, tie_word_embeddings=True,
    )  # fmt: skip
    size: dict[str, Any] = {"width": 256, "layers": 4, "heads": 8, "key_value_heads": 4, "hidden": 768}
    form: dict[str, Any] = {"positions": "rotary", "norm": "rms", "activation": "swiglu", "bias": False}
    ours = pf.LanguageModel(TransformerConfig(VOCABULARY, max_length=longest, **size, **form))
    return Sides(ours, LlamaForCausalLM(config))


def pretrained(folder: Path, longest: int) -> Sides:
    backbone = pf.Pretrained.from_pretrained(folder)
    corpus: Any = SimpleNamespace(
        vocabulary=backbone.config.vocabulary, max_length=longest, conditional=False, max_condition_length=0,
        tokenizer=backbone.tokenizer, labels=(),
    )  # fmt: skip
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return Sides(pf.LanguageModel.for_corpus(corpus, backbone=backbone), theirs)


def step(sides: Sides, options: argparse.Namespace) -> tuple[Callable[[], object], Callable[[], object]]:
    torch.manual_seed(0)
    vocabulary = min(sides.ours.config.vocabulary, sides.theirs.config.vocab_size)
    rows = torch.randint(EOS + 1, vocabulary, (options.texts, options.length - 1)).tolist()
    batch = Batch.pad([[*row, EOS] for row in rows])
    assert batch.tokens is not None
    inputs = torch.cat([torch.full((options.texts, 1), BOS), batch.tokens[:, :-1]], 1)
    objective = ELBO()(sides.ours, None)

    def differentiated(network: nn.Module, loss: Callable[[], Tensor]) -> None:
        network.train().zero_grad()
        loss().backward()

    return (
        lambda: differentiated(objective, lambda: objective(batch)),
        lambda: differentiated(sides.theirs, lambda: sides.theirs(inputs, labels=inputs).loss),
    )


def written(**rule: Any) -> Callable[[Sides, argparse.Namespace], tuple[Callable[[], object], Callable[[], object]]]:
    """Both sides' ways of writing texts by a rule of decoding."""

    def work(sides: Sides, options: argparse.Namespace) -> tuple[Callable[[], object], Callable[[], object]]:
        texts, new = options.texts, options.new
        decoding, excluded = Decoding(**rule), torch.tensor([PAD, BOS, EOS])
        sampling: dict[str, Any] = {"do_sample": not decoding.greedy}
        if not decoding.greedy:
            sampling |= {"top_k": decoding.top_k, "top_p": decoding.top_p, "temperature": 1.0}
        start = torch.full((texts, 1), BOS)
        sides.theirs.generation_config.eos_token_id = None  # so that none ends

        def ours() -> None:
            sampler = decoding.token_sampler(uniforms(0, range(texts), new))
            text = AutoregressiveText(sides.ours.eval().decoder)
            tokens = text.decode(lambda x: sampler(x.index_fill_(-1, excluded, -torch.inf)), (texts,), new)
            assert tokens.shape == (texts, new)

        def theirs() -> None:
            mask = torch.ones_like(start)
            tokens = sides.theirs.eval().generate(
                start, attention_mask=mask, max_new_tokens=new, pad_token_id=0, **sampling
            )
            assert tokens.shape == (texts, new + 1)

        return ours, theirs

    return work


WORK = {
    "step": step,
    "greedy": written(greedy=True),
    "sampled": written(),
    "top-k 50": written(top_k=50),
    "top-p 0.9": written(top_p=0.9),
}


if __name__ == "__main__":
    main()
