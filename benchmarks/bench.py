"""One table of ratios against other programs on the same work, in at most eight minutes of a CPU: ``make bench``.

    python benchmarks/bench.py [--write] [--minutes 8] [--only NAME ...]

Both sides of a row take turns in one process, and a ratio is one of fastest rounds, because other load on the machine
can only increase a time. Below 1 we are ahead. ``--write`` replaces the table in RESULTS.md. A section that no time is
left for says so.
"""

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import attention
import della
import elbo
import em
import language_model
import pyro
import torch
import torch.nn.functional as F
from measuring import milliseconds, random_batch, seconds
from reporting import argument_parser, markdown
from threadpoolctl import threadpool_limits
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

import pyroformer as pf
from pyroformer.inference.training.compiled import NO_VALIDATION
from pyroformer.models.batch import BOS, EOS
from pyroformer.models.transformer.config import TransformerConfig
from pyroformer.models.transformer.stacks import Decoder
from pyroformer.models.transformer.text_distribution import AutoregressiveText
from pyroformer.models.transformer.token_likelihood import token_log_prob

RESULTS = Path(__file__).parent / "RESULTS.md"


class Row(NamedTuple):
    """A measurement: ours, that of others, in the unit, and the largest ratio that was asked for, if one was.

    Without others, ``asked`` is the largest value.
    """

    work: str
    others: str
    ours: float
    theirs: float | None = None
    unit: str = "ms"
    asked: float | None = None

    @property
    def ratio(self) -> float:
        return self.ours if self.theirs is None else self.ours / self.theirs

    def cells(self) -> list[str]:
        ours, theirs = (_number(value, self.unit) for value in (self.ours, self.theirs))
        ratio = "" if self.theirs is None else f"{self.ratio:.2f}"
        asked = "" if self.asked is None else f"{self.asked:g}" + ("" if self.ratio <= self.asked else ", missed")
        return [self.work, self.others, ours, theirs, ratio, asked]


Section = Callable[[str], list[Row]]


def starting(device: str) -> list[Row]:
    """Seconds of the commands that everybody waits for, each in a new process."""
    first_step = (
        "import os, pyroformer as pf\n"
        "pf.fit\n"
        "from pyroformer.inference.training.lightning_module import Training\n"
        "Training.on_train_batch_end = lambda *_: os._exit(0)\n"
        "corpus = pf.Corpus.builtin()\n"
        "model = pf.NVAE.for_corpus(corpus, size='tiny', base_measure='tokens')\n"
        "pf.fit(model, pf.NVAEGuide(model), corpus, steps=9)\n"
    )
    empty = _process(["-c", "pass"], 5)
    return [
        Row("`pyroformer --help`", "", _process(["-m", "pyroformer", "--help"], 5), unit="s", asked=0.5),
        Row("`import pyroformer`", "", max(0.0, _process(["-c", "import pyroformer"], 5) - empty), unit="s", asked=0.1),
        Row("first step of `fit` on the built-in corpus", "", _process(["-c", first_step], 2), unit="s", asked=8.0),
    ]


def objectives(device: str, width: int = 64, repeats: int = 30) -> list[Row]:
    """A step of the NVAE, as :mod:`elbo` has it."""
    with pyro.settings.context(**NO_VALIDATION):
        times = milliseconds(elbo.steps(width, device), repeats, device, warm_ups=3)
    work = f"step of an NVAE, width {width}"
    return [
        Row(work, "PyTorch by hand", times["eager"], times["hand"], asked=1.2),
        Row(f"{work}, captured", "PyTorch by hand", times["captured"], times["hand"], asked=1.0),
        Row(work, "plain Pyro SVI", times["eager"], times["pyro"]),
    ]


def chains(device: str, width: int = 256, repeats: int = 10) -> list[Row]:
    """A step of DELLA, as :mod:`della` has it."""
    config = TransformerConfig(
        4000, max_length=32, width=width, layers=4, heads=max(1, width // 64), positions="learned"
    )
    torch.manual_seed(1)
    batch = random_batch(4000, 32, 32, 16, device)
    with pyro.settings.context(**NO_VALIDATION):
        ways = della.ways(config, batch, device)
        times = milliseconds({name: della.stepper(*way) for name, way in ways.items()}, repeats, device)
    work = f"step of DELLA, width {width}"
    return [
        Row(f"{work}, collapsed", "PyTorch by hand", times["collapsed"], times["by hand"], asked=1.15),
        Row(f"{work}, product", "PyTorch by hand", times["product"], times["by hand"], asked=1.3),
    ]


def trunks(device: str, width: int = 256, repeats: int = 10, length: int = 128) -> list[Row]:
    """A step of a language model of GPT-2's form, and 128 tokens written by one."""
    torch.manual_seed(0)
    corpus = SimpleNamespace(vocabulary=4000, max_length=length, conditional=False, max_condition_length=0)
    config = {"width": width, "layers": 4, "heads": max(1, width // 64)}
    theirs, their_loss = language_model.theirs(corpus, **config)
    ours = pf.LanguageModel(TransformerConfig(4000, max_length=length, positions="learned", **config))
    objective = elbo.ELBO()(ours, None)
    batch = random_batch(4000, 8, length, device=device)
    theirs.to(device)
    objective.to(device)
    with pyro.settings.context(**NO_VALIDATION):
        steps = {
            "ours": della.stepper(objective, lambda: objective(batch)),
            "theirs": della.stepper(theirs, lambda: their_loss(batch)),
        }
        times = milliseconds(steps, repeats, device)
    return [Row(f"step of a language model, width {width}", "transformers", times["ours"], times["theirs"])]


def writing(device: str, width: int = 256, repeats: int = 3, new: int = 128, texts: int = 8) -> list[Row]:
    """Greedy texts of equal length from models of equal size."""
    torch.manual_seed(0)
    size = {"layers": 4, "heads": max(1, width // 64)}
    config = GPT2Config(
        vocab_size=4000, n_positions=new + 1, n_embd=width, n_layer=size["layers"], n_head=size["heads"],
        bos_token_id=BOS, eos_token_id=EOS, pad_token_id=0,
    )  # fmt: skip
    theirs = GPT2LMHeadModel(config).to(device).eval()
    ours = Decoder(TransformerConfig(4000, max_length=new + 1, width=width, positions="learned", **size))
    ours.to(device).eval()
    start = torch.full((texts, 1), BOS, device=device)

    def by_transformers() -> Tensor:
        mask = torch.ones_like(start)
        tokens = theirs.generate(start, attention_mask=mask, max_new_tokens=new, min_new_tokens=new, do_sample=False)
        assert isinstance(tokens, Tensor) and tokens.shape == (texts, new + 1)
        return tokens

    def by_us() -> Tensor:
        choose = lambda logits: logits[:, EOS + 1 :].argmax(-1) + EOS + 1  # noqa: E731
        tokens = AutoregressiveText(ours).decode(choose, (texts,), new)
        assert tokens.shape == (texts, new)
        return tokens

    times = milliseconds({"ours": by_us, "theirs": by_transformers}, repeats, device)
    return [
        Row(f"{texts} texts of {new} tokens, width {width}", "transformers, `generate`", times["ours"], times["theirs"],
            asked=round(1 / 1.5, 2))
    ]  # fmt: skip


def layers(device: str, components: int = 512, width: int = 256, rounds: int = 8) -> list[Row]:
    """Attention over a mixture, as :mod:`attention` has it."""
    problem = attention.Problem.draw(2, components, width, max(1, width // 64), device)
    forms = attention.layers(problem)
    names = {"training": "plain", "rank 2": "P-wide, explicit", "training, explicit": "training"}
    costs = attention.measure({n: forms[n] for n in {*names, *names.values()}}, problem.leaves, rounds, device)
    best = {name: 1e3 * cost.both for name, cost in costs.items()}
    work = f"attention to {components} vectors, forward and backward"
    return [
        Row(work, "softmax attention", best["training"], best["plain"], asked=1.5),
        Row(work, "its matrix of weights in memory", best["training"], best["training, explicit"]),
        Row(f"{work}, with variances", "the published computation", best["rank 2"], best["P-wide, explicit"]),
        Row(f"{work}, memory", "softmax attention", costs["training"].memory / 2**20, costs["plain"].memory / 2**20,
            "MiB"),
    ]  # fmt: skip


def mixtures(device: str, queries: int = 20_000, rounds: int = 3) -> list[Row]:
    """EM, as :mod:`em` has it; on the CPU."""
    problem = em.Problem.draw(queries, 64, 16)
    single = problem.to(torch.float32)
    with threadpool_limits(torch.get_num_threads()):
        forms = {"theirs": lambda: em.theirs(problem, 20), "ours": lambda: em.ours(single, 20)}
        forms |= {"double": lambda: em.ours(problem, 20)}
        times = milliseconds(forms, rounds, warm_ups=0)
    work = f"EM, {queries:,} queries, 64 components, 20 steps"
    return [
        Row(f"{work}, float64", "scikit-learn", times["double"], times["theirs"]),
        Row(f"{work}, float32", "scikit-learn, float64", times["ours"], times["theirs"]),
    ]


def vocabularies(
    device: str, rows: int = 1024, vocabulary: int = 49_152, width: int = 64, rounds: int = 3
) -> list[Row]:
    """The likelihood of tokens with its gradient, without all logits at once."""
    torch.manual_seed(0)
    hidden = torch.randn(rows, width, device=device, requires_grad=True)
    embedding = torch.randn(vocabulary, width, device=device, requires_grad=True)
    tokens = torch.randint(vocabulary, (rows,), device=device)
    forms: dict[str, attention.Layer] = {
        "ours": lambda: token_log_prob(hidden, embedding, tokens),
        "dense": lambda: -F.cross_entropy(F.linear(hidden, embedding), tokens, reduction="none"),
    }
    costs = attention.measure(forms, [hidden, embedding], rounds, device)
    work = f"likelihood of {rows:,} of {vocabulary:,} tokens"
    memory = {name: cost.memory / 2**20 for name, cost in costs.items()}
    times = {name: 1e3 * cost.both for name, cost in costs.items()}
    return [
        Row(work, "cross-entropy of logits", times["ours"], times["dense"]),
        Row(f"{work}, memory", "cross-entropy of logits", memory["ours"], memory["dense"], "MiB"),
    ]


SECTIONS: dict[str, Section] = {
    "start": starting,
    "attention": layers,
    "likelihood": vocabularies,
    "mixtures": mixtures,
    "trunk": trunks,
    "generate": writing,
    "della": chains,
    "nvae": objectives,
}


def report(
    sections: Mapping[str, Section], device: str, minutes: float, say: Callable[[str], object] = lambda line: None
) -> str:
    """The table as markdown; sections that begin after the time is over are left out by name."""
    start, table, missing = time.monotonic(), [], []
    for name, section in sections.items():
        if time.monotonic() - start > 60 * minutes:
            missing.append(name)
            continue
        rows = [row.cells() for row in section(device)]
        table += rows
        say(f"{name}: {time.monotonic() - start:.0f} s\n" + "\n".join(" | ".join(row) for row in rows))
    left_out = f" Without {', '.join(missing)}, for which no time was left." if missing else ""
    head = ["work", "beside", "ours", "theirs", "ratio", "asked for"]
    took = f"{time.monotonic() - start:.0f} seconds in all"
    return f"{machine(device)}; {took}.{left_out}\n\n{markdown(head, table, left=2)}"


def machine(device: str) -> str:
    """What the numbers depend on."""
    name = torch.cuda.get_device_name() if device == "cuda" else _processor()
    threads = torch.get_num_threads()
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg()) if hasattr(os, "getloadavg") else "unknown"
    commit = _output(["git", "rev-parse", "--short", "HEAD"]) or "unknown"
    changed = " and changes" if _output(["git", "status", "--porcelain", "--untracked-files=no"]) else ""
    return (
        f"{name}, {threads} thread{'s' if threads > 1 else ''}, load {load}; Python {sys.version.split()[0]}, torch "
        f"{torch.__version__}, commit {commit}{changed}, {time.strftime('%Y-%m-%d')}"
    )


def write(name: str, text: str, path: Path = RESULTS) -> None:
    """Replaces the table of a name in the results."""
    before = path.read_text(encoding="utf-8")
    pattern = re.compile(rf"(<!-- {name}: .*? -->\n).*?(<!-- end of {name} -->)", re.DOTALL)
    if not pattern.search(before):
        raise ValueError(
            f"{path} has no place for {name}: put the lines <!-- {name}: ... --> and <!-- end of {name} -->."
        )
    path.write_text(pattern.sub(lambda found: f"{found[1]}\n{text}\n{found[2]}", before), encoding="utf-8")


def command_line(name: str, sections: Mapping[str, Section], device: str, document: str | None) -> None:
    """Measures and prints, with the options of both scripts."""
    parser = argument_parser(document)
    parser.add_argument("--write", action="store_true", help="put the table into RESULTS.md")
    parser.add_argument("--minutes", type=float, default=7.0, help="no section begins after this")
    parser.add_argument("--only", nargs="+", choices=sections, metavar="NAME", help=f"sections: {', '.join(sections)}")
    options = parser.parse_args()
    chosen = {key: section for key, section in sections.items() if not options.only or key in options.only}
    text = report(chosen, device, options.minutes, lambda line: print(line, flush=True))
    print(text)
    if options.write:
        write(name, text)


def _process(arguments: list[str], rounds: int) -> float:
    """Seconds of the fastest of some new Python processes."""
    command = partial(subprocess.run, [sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    return seconds({"": command}, rounds, warm_ups=0)[""]


def _number(value: float | None, unit: str) -> str:
    if value is None:
        return ""
    return f"{value:.0f} {unit}" if value >= 100 else f"{value:.3g} {unit}"


def _processor() -> str:
    try:
        found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    except OSError:
        found = None
    return " ".join(found[1].split()) if found else "a CPU"


def _output(command: list[str]) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, cwd=RESULTS.parent, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


if __name__ == "__main__":
    command_line("bench", SECTIONS, "cpu", __doc__)
