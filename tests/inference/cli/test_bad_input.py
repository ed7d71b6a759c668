"""Whatever a command is given, it ends with one line that names the value, the rule and the way out."""

import gzip
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from pyroformer.inference.cli.main import main

TINY = "--model.width 8 --model.layers 1 --model.heads 2 --vocabulary 270 --max_length 32 --batch_size 8"
PRIORS = """
import torch
import pyroformer as pf
from pyro import distributions as dist

open("imported", "w").close()

class Flat(pf.priors.WeightPrior):
    def forward(self, mask):
        return pf.distributions.LogDirichlet(torch.zeros(mask.shape), mask)

class Narrow(pf.priors.VectorPrior):
    def forward(self):
        return dist.Normal(torch.zeros(3), 1.0).to_event(1)

class Unfinished(pf.priors.WeightPrior):
    pass
"""


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory, sentences: list[str]) -> Path:
    """A folder of bad and good files, and two small runs."""
    here = tmp_path_factory.mktemp("here")
    (here / "good.txt").write_text("\n".join(sentences))
    (here / "empty.txt").write_bytes(b"")
    (here / "blank.txt").write_text("\n  \n\t\n")
    (here / "few.txt").write_text("one\ntwo\n")
    (here / "photo.jpg").write_bytes(b"\xff\xd8\xff\xe0" * 50)
    (here / "latin.txt").write_bytes("Größe\n".encode("latin-1") * 50)
    (here / "zeros.txt").write_bytes(b"text\0text\n" * 50)
    (here / "table.xlsx").write_text("\n".join(sentences))
    (here / "cut.txt.gz").write_bytes(gzip.compress("\n".join(sentences).encode())[:-20])
    (here / "no.jsonl").write_text("{'a': 1}\n" * 30)
    (here / "other.jsonl").write_text('{"body": "a text"}\n' * 30)
    (here / "wide.tsv").write_text("a\tb\n" * 30)
    (here / "pairs.tsv").write_text("".join(f"{'odd' if i % 2 else 'even'}\tNumber {i}.\n" for i in range(40)))
    (here / "folder").mkdir()
    (here / "split").mkdir()
    (here / "split" / "train.txt").write_text("\n".join(sentences))
    (here / "thesis").mkdir()
    (here / "thesis" / "thesis.tex").write_text("dear")
    (here / "broken.yaml").write_text("steps: [1, 2\n")
    (here / "list.yaml").write_text("- steps\n")
    (here / "unknown.yaml").write_text("steps: 2\ntemprature: 3\n")
    (here / "wrong.yaml").write_text("steps: many\n")
    (here / "my_priors.py").write_text(PRIORS)
    for name in ("nvae", "lm"):
        arguments = f"fit {name} --data {here}/good.txt --out {here}/{name} --steps 2 --validations 1 {TINY}"
        arguments += " --prior gaussian" if name == "nvae" else ""
        assert main(shlex.split(arguments)) == 0
    return here


def complaint(arguments: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """The exit code and the one line on standard error."""
    capsys.readouterr()
    code = main(shlex.split(arguments))
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and error.startswith("error: "), error
    return code, error


FIT = "fit nvae --data {here}/good.txt --out {here}/new " + TINY
READ = "fit lm --out {here}/new --data {here}/"
DELLA = "fit della --data {here}/good.txt --out {here}/new "
FROM_LM = "fit {} --data {{here}}/good.txt --out {{here}}/new --init_from {{here}}/lm "
CASES = [
    # files
    (READ + "none.txt", 1, r"none\.txt does not exist\. Give a \.txt, .* file .*or a folder"),
    (READ + "empty.txt", 1, r"empty\.txt is empty\. Give a \.txt"),
    (READ + "blank.txt", 1, r"blank\.txt holds only blank lines \(3 of them\)\. Give a \.txt"),
    (READ + "few.txt", 1, r"few\.txt holds 2 different texts, too few to split: give at least 20"),
    (READ + "photo.jpg", 1, r"photo\.jpg is not UTF-8 text \(byte 0xff at position 0\)\. Give a \.txt"),
    (READ + "latin.txt", 1, r"latin\.txt .* \(byte 0xf6 at position 2\): it seems .* iconv -f WINDOWS-1252"),
    (READ + "zeros.txt", 1, r"zeros\.txt is not text \(a NUL byte at position 4\)\. Give a \.txt"),
    (READ + "table.xlsx", 1, r"table\.xlsx ends in none of \.txt.*\. Give a \.txt"),
    (READ + "cut.txt.gz", 1, r"cut\.txt\.gz is no whole gzip file .*\. Compress it again, or give it unpacked"),
    (READ + "no.jsonl", 1, r"line 1 of .*no\.jsonl is not JSON .*\. Give one JSON object a line"),
    (READ + "other.jsonl", 1, r"line 1 of .*other\.jsonl lacks the field 'text': it has only 'body'\. Name the field"),
    (READ + "wide.tsv", 1, r"wide\.tsv has 2 columns: name the one with the texts"),
    (READ + "good.txt --field body", 1, r"good\.txt has no fields, so none that is 'body': leave --field out"),
    (READ + "folder", 1, r"folder holds nothing\. Put train\.txt, valid\.txt and test\.txt there"),
    (READ + "thesis", 1, r"thesis holds no train file \(but thesis\.tex\)\. Put train\.txt"),
    ("fit lm --data builtin --field x --out {here}/new", 1, "the built-in texts have no field 'x': leave --field out"),
    (READ + "good.txt --max_length 3", 1, "a --max_length of 3 tokens is too short for text: give at least 8"),
    (READ + "good.txt --vocabulary 100", 1, "vocabulary of 100 is too small: .* Give at least 259"),
    (READ + "good.txt --vocabulary 0", 1, "vocabulary of 0 is too small: .* Give at least 259"),
    (READ + "good.txt --vocabulary -1", 1, "vocabulary of -1 is too small: .* Give at least 259"),
    (READ + "pairs.tsv --condition 0", 1, "LanguageModel does not read the conditions .*: leave --condition out, or"),
    (FIT + " --condition 0", 1, r"NVAE .*: leave --condition out, or choose .* such as DELLA \(fit della\)"),
    (
        READ + "good.txt --labels true",
        1,
        "labels are conditions, and these texts have none: give pairs, or leave --lab",
    ),
    # what was typed
    (
        "train lm",
        2,
        "command is 'train': choose one of fit, fit-prior, evaluate, sample, reconstruct, interpolate, swap, ",
    ),
    ("fit", 2, r"fit needs a model first: pyroformer fit lm\|della\|nvae\|vae --data FILE --out FOLDER"),
    ("fit --steps 3", 2, "fit needs a model first"),
    ("fit gpt5 --data x --out y", 2, "model is 'gpt5': choose one of lm, della, nvae, vae"),
    (FIT + " --model.widht 3", 2, r"has no option --model\.widht: did you mean --model\.width\? See .* --help"),
    (FIT + " --batch-siz 3", 2, r"has no option --batch_siz: did you mean --batch_size\? See .* --help"),
    (FIT + " twice", 2, "'twice' is one argument too many for pyroformer fit nvae. See .* --help"),
    (FIT + " --steps", 2, "--steps needs a value: give a whole number"),
    (FIT + " --steps many", 2, "--steps is 'many': give a whole number"),
    (FIT + " --size huge", 2, "--size is 'huge': give one of tiny, small, base"),
    (FIT + " --precision 16", 2, "--precision is '16': give one of 32, bf16"),
    (FIT + " --compile yes", 2, "--compile is 'yes': give one of auto, off, blocks, full"),
    (FIT + " --labels few", 2, "--labels is 'few': give true or false"),
    (FIT + " --overlong cut", 2, "--overlong is 'cut': give one of split, drop"),
    (FIT + " --vocabulary large", 2, "--vocabulary is 'large': give a whole number or auto"),
    (FIT + " --objective loss", 1, "objective is 'loss': choose one of elbo, iw, nvib, an import path"),
    (FIT + " --free_bits_per token", 2, "--free_bits_per is 'token': give one of dimension, layer, total"),
    (FIT + " --kl_reduction max", 2, "--kl_reduction is 'max': give one of sum, mean"),
    (FIT + " --layer_weights max", 2, "--layer_weights is 'max': give one of linear, equal"),
    (FIT + " --guide.alpha exp", 2, r"--guide\.alpha is 'exp': give one of linear, relu, quadratic"),
    (FIT + " --guide.variance full", 2, r"--guide\.variance is 'full': give one of diagonal, isotropic, shared"),
    ("fit lm --guide.alpha relu", 2, r"fit lm has no option --guide\.alpha"),
    ("evaluate", 2, r"pyroformer evaluate needs RUN"),
    ("posterior {here}/nvae", 1, r"posterior needs --out FILE, such as posterior\.nc"),
    ("posterior {here}/lm --out {here}/p.nc", 1, "a LanguageModel has no latents, so no posterior to draw from"),
    ("posterior {here}/nvae --out {here}/p.nc --draws 0", 1, "draws is 0: give a whole number of at least 1"),
    ("posterior {here}/nvae --out {here}/none/p.nc --draws 2", 1, "none/p.nc lies in no folder: make .*none first"),
    ("posterior {here}/nvae --out {here}/p.nc --text ''", 1, "--text is empty: give a text of at least one word"),
    ("posterior {here}/nvae --out {here}/p.nc --text One ' '", 1, "--text is empty: give a text of at least one word"),
    ("sample {here}/nvae -n few", 2, "-n is 'few': give a whole number"),
    ("sample {here}/nvae --temperature hot", 2, "--temperature is 'hot': give a number"),
    # configuration files
    (FIT + " --config {here}/none.yaml", 2, r"the file of --config cannot be read: File does not exist: .*none\.yaml"),
    (FIT + " --config {here}/broken.yaml", 2, "the file of --config is not YAML: .* line 1"),
    (FIT + " --config {here}/list.yaml", 2, "the file of --config must hold lines of the form 'option: value'"),
    (FIT + " --config {here}/unknown.yaml", 2, "has no option --temprature.* See .* --help"),
    (FIT + " --config {here}/wrong.yaml", 2, "--steps is 'many': give a whole number"),
    # numbers that break a rule
    ("fit lm --out {here}/new --steps 3", 1, "fit needs --data: a file of texts, a folder .*, or the word builtin"),
    (
        "fit lm --data {here}/good.txt --out {here}/new --trust no_module",
        1,
        "--trust is no_module, and no run is read whose code needs it: leave it out",
    ),
    (
        FIT + " --prior tokens --guide.log_variance -1",
        1,
        r"log_variance is -1\.0, and posteriors start at the Gaussians of the tokens .*: leave .*log_variance out",
    ),
    ("fit lm --data {here}/good.txt --steps 3", 1, "fit needs --out FOLDER: the run is kept there"),
    (FIT + " --steps -1", 1, "steps is -1: give a positive whole number"),
    (FIT + " --steps 0", 1, "steps is 0: give a positive whole number"),
    (FIT + " --minutes 0", 1, r"minutes is 0\.0: give a positive number"),
    (FIT + " --minutes inf", 2, "--minutes is 'inf': give a number"),
    (FIT + " --devices 0", 1, "devices is 0: give a positive whole number"),
    (FIT + " --learning_rate -1", 1, r"learning_rate is -1\.0: give a positive number"),
    (FIT + " --beta -1", 1, r"beta is -1\.0: give zero or a positive number"),
    (FIT + " --free_bits -1", 1, r"free_bits is -1\.0: give zero or a positive number"),
    (
        FIT + " --objective nvib --free_bits 2",
        1,
        "--free_bits is 2.0, which is about the KL, and the objective nvib has none: .*, or choose --objective elbo",
    ),
    (
        FIT + " --objective nvib --prior tokens",
        1,
        r"TokenVectorPrior has a different one for each vector: .* a --prior of independent vectors \(gaussian or mix",
    ),
    (FIT + " --target_kl 0", 1, r"target_kl is 0\.0: give a positive number"),
    (FIT + " --target_kl 4 --kl_schedule linear", 1, "error: --kl_schedule is linear, but --target_kl alone decides"),
    (FIT + " --keep 1.5", 1, r"keep is 1\.5: give a share of the vectors, above 0 and at most 1"),
    (FIT + " --keep 0.5", 1, r"with --guide\.alpha linear none ever is: .* --guide\.alpha relu, or leave --keep"),
    (
        FIT + " --lambda_g 1 --objective elbo",
        1,
        "lambda_g is 1.0, an option of the objective nvib, and the objective elbo",
    ),
    (FIT + " --delta -1", 1, r"error: --delta is -1\.0: give a finite number of at least 0"),
    (FIT + " --delta 1 --model.delta 2", 1, r"--delta is 1, and --model\.delta beside it decides the same: give one"),
    (FIT.replace("nvae", "lm") + " --delta 1", 1, "--delta is 1, and lm has no weights with a delta: leave it out"),
    (
        FIT + " --attention softmax --model.attention probabilistic",
        1,
        r"--attention is softmax, and --model\.attention beside it decides the same: give one of them",
    ),
    (
        FIT + " --prior mixture --model.base_measure gaussian",
        1,
        r"--prior is mixture, and --model\.base_measure beside it decides the same: give one of them",
    ),
    (FIT + " --tokenizer byte", 2, "--tokenizer is 'byte': give one of bpe, bytes, characters"),
    (FIT + " --tokenizer bytes --vocabulary 300", 1, "vocabulary is 300, but a tokenizer of bytes has as many tokens"),
    (FIT + " --seed -1", 1, "seed is -1: give zero or a positive number"),
    (FIT + " --model.heads 3", 1, r"--model\.width is 8, .* of --model\.heads = 3: .* --model\.width or --mod"),
    (FIT + " --model.dropout 1", 1, r"error: --model\.dropout is 1\.0: give a number of at least 0 and below 1"),
    (
        FIT + " --model.samples_per_component 0",
        1,
        r"error: --model\.samples_per_component is 0: give a whole number of at least 1",
    ),
    # folders of runs
    (
        "fit lm --data {here}/good.txt --out {here}/thesis",
        1,
        "holds files that are not a run's: choose another --out, new or empty",
    ),
    ("fit lm --data {here}/good.txt --out {here}/good.txt", 1, "is a file: a run needs a folder, choose another --out"),
    ("fit lm --data {here}/good.txt --out /proc/run", 1, r"/proc/run cannot be written \(.*\): choose another --out"),
    ("fit lm --data {here}/good.txt --out {here}/lm", 1, r"already holds a run \(step 2\)\. Continue it with --resume"),
    ("demo --minutes -1", 1, r"minutes is -1\.0"),
    ("demo --minutes 0.01 --out {here}/lm", 1, "lm already holds a run: choose another --out, or leave it out"),
    ("fit lm --out {here}/new --resume", 1, "holds no run to go on with: give --data to begin one"),
    ("fit lm --out {here}/nvae --resume", 1, "nvae holds a run of the model nvae, not of lm: choose another --out"),
    (
        "fit nvae --out {here}/nvae --resume --model.width 16",
        1,
        r"--model\.width is 16, but .* begun with 8: leave it out",
    ),
    ("fit nvae --out {here}/nvae --resume --size base", 1, r"--model\.width is 512, but .* begun with 8: leave it out"),
    (
        "fit nvae --out {here}/nvae --resume --model.samples_per_component 2",
        1,
        r"--model\.samples_per_component is 2, but .* with 1: leave it out",
    ),
    ("fit nvae --out {here}/nvae --resume --delta 0.2", 1, r"--delta is 0\.2, but .* begun without it: leave"),
    ("fit nvae --out {here}/nvae --resume --tokenizer bytes", 1, "--tokenizer is bytes, but .* with bpe: leave it out"),
    ("fit nvae --out {here}/nvae --resume --guide.alpha relu", 1, r"--guide\.alpha is relu, but .* with linear: leave"),
    (
        "fit nvae --out {here}/nvae --resume --max_length 64",
        1,
        "--max_length is 64, but .* begun with 32: leave it out",
    ),
    ("fit nvae --out {here}/nvae --resume --seed 5", 1, "--seed is 5, but .* begun with 0: leave it out"),
    ("evaluate {here}/none", 1, r"none is not a folder: give that of an earlier fit"),
    ("sample {here}/thesis", 1, r"thesis holds no run \(no config\.yaml\): give that of an earlier fit"),
    ("plot {here}/good.txt", 1, r"good\.txt is not a folder: give that of an earlier fit"),
    # starting from a run
    (
        FROM_LM.format("lm") + "--attention probabilistic",
        1,
        "attention is probabilistic, and .*/lm has positions rotary, which only softmax .* has: leave .*attention out",
    ),
    (
        FROM_LM.format("nvae") + "--model.nvib_decoder_layers 1",
        1,
        "nvib_decoder_layers is 1, and all layers of .*/lm have softmax attention: leave it out, or turn",
    ),
    (
        FROM_LM.format("nvae") + "--model.nvib_layers 1",
        1,
        "nvib_layers is 1, and .*/lm has rotary positions, which attention to a mixture has not: leave it out",
    ),
    (
        FROM_LM.format("lm") + "--train lora --model.adapter_rank 0",
        1,
        "adapter_rank is 0, which is no adapters, and --train is lora, .*: give a rank of at least 1, or leave",
    ),
    # using a run
    ("evaluate {here}/nvae --json {here}/nowhere/x.json", 1, "nowhere/x.json lies in no folder: make .*nowhere first"),
    ("evaluate {here}/nvae --num_particles 0", 1, "num_particles is 0: give a positive whole number"),
    (
        "evaluate {here}/nvae --samples 3 --judge {here}/nvae",
        1,
        "nvae is a run of the model NVAE, and a LanguageModel is needed here: give a run of fit lm",
    ),
    (
        FIT + " --model.presence 0.5 --keep 0.5 --guide.alpha relu",
        1,
        r"error: --model\.presence is 0\.5, .*: leave --model\.presence out, or leave --keep out",
    ),
    ("evaluate {here}/nvae --limit -3", 1, "limit is -3: give a positive whole number"),
    ("evaluate {here}/nvae --data {here}/blank.txt", 1, r"blank\.txt holds only blank lines"),
    (
        "evaluate {here}/nvae --data {here}/split",
        1,
        r"split holds no test file \(but train\.txt\)\. Give the file itself",
    ),
    (DELLA + "--model.latent_size 0", 1, r"error: --model\.latent_size is 0: give a whole number of at least 1"),
    (DELLA + "--model.rank 0", 1, r"--model\.rank is 0: give a whole number of at least 1"),
    (
        DELLA + "--model.first_layer 2 --model.last_layer 1",
        1,
        "layers 2 to 1: give --model.first_layer and --model.last",
    ),
    (DELLA + "--model.last_layer 9", 1, "latents enter layers 1 to 9: .* from 1 to the 2 layers that there are"),
    (DELLA + "--model.fusion glue", 2, "--model.fusion is 'glue': give one of product, collapsed, add, film, memory"),
    (DELLA + "--model.attention probabilistic", 1, "fusion 'product' changes what softmax attention attends to"),
    (DELLA + "--guide.posterior half", 2, "--guide.posterior is 'half': give one of full, residual"),
    ("swap {here}/nvae --text one --other two", 1, "the latents of this NVAE belong to no layers"),
    ("swap {here}/nvae --text one --other two --layers x", 1, "--layers is 'x', no list of layers: write 2, or 1-3"),
    ("interpolate {here}/nvae --text one --other two --layers 1", 1, "the latents of this NVAE belong to no layers"),
    ("interpolate {here}/lm --text one --other two", 1, "a LanguageModel has no latents"),
    ("interpolate {here}/nvae --text one", 1, "--other is missing: give a text of at least one word"),
    ("reconstruct {here}/nvae --min_weight 1", 1, r"--min_weight is 1\.0: give a weight from 0 to below 1"),
    ("evaluate {here}/nvae --min_weight -1", 1, r"--min_weight is -1\.0: give a weight from 0 to below 1"),
    ("evaluate {here}/lm --min_weight 0.1", 1, "a LanguageModel has no latents"),
    ("edit {here}/nvae", 1, "--text is missing: give a text of at least one word"),
    ("edit {here}/lm --text one", 1, "a LanguageModel has no mixture to edit: fit an nvae to have one"),
    ("edit {here}/nvae --text one --drop x", 1, "--drop is 'x', no list of vectors: write 2, or 1-3"),
    ("edit {here}/nvae --text one --drop 0", 1, "vector 0 is the prior's and stays: drop or swap others, or scale it"),
    ("edit {here}/nvae --text one --drop 99", 1, "there is no vector 99 in 'one': give 0, the prior's, or 1 to "),
    ("edit {here}/nvae --text one --scale 1=0", 1, "--scale is 1=0: give a positive, finite factor"),
    ("edit {here}/nvae --text one --scale 1", 1, "--scale is '1': write 3=0.1, with commas between several"),
    (
        "edit {here}/nvae --text one --swap 1=2",
        1,
        "--swap needs --other, the text to take vectors from: give both, or leave --swap out",
    ),
    ("edit {here}/nvae --text one --other two", 1, "--other needs --swap, such as 3=5: give both, or leave --other"),
    (
        "evaluate {here}/lm --data {here}/pairs.tsv --condition 0",
        1,
        "these texts have conditions, and those of the corpus have none: give the texts alone",
    ),
    ("evaluate {here}/lm --data {here}/good.txt --condition 0", 1, r"line 1 of .*good\.txt has no tab: a pair is a"),
    ("evaluate {here}/lm --data {here}/pairs.tsv --condition 0 --field 0", 1, "are both column 0: name two different"),
    ("sample {here}/nvae -n 0", 1, "-n is 0: give a positive whole number"),
    ("sample {here}/nvae --greedy --temperature 0.5", 1, r"--temperature is 0\.5, and --greedy .*: leave one out"),
    ("sample {here}/nvae --greedy --top_k 3", 1, r"--top_k is 3, and --greedy .*: leave one out"),
    ("sample {here}/nvae --greedy --top_p 0.9", 1, r"--top_p is 0\.9, and --greedy .*: leave one out"),
    ("sample {here}/nvae --temperature 0", 1, r"temperature is 0\.0: give 1e-30 to .*, or"),
    ("reconstruct {here}/nvae --temperature -1", 1, r"error: --temperature is -1\.0: give 1e-30 to 1e\+30\.$"),
    ("sample {here}/nvae --temperature -1", 1, r"error: --temperature is -1\.0: give .*, or --greedy\.$"),
    ("sample {here}/nvae --top_p 1.5", 1, r"top_p is 1\.5: give a probability from 1e-30 up to 1"),
    ("sample {here}/nvae --top_k -1", 1, "top_k is -1: give a positive whole number, or 0 for all tokens"),
    (
        "sample {here}/nvae --prompt '" + "word " * 99 + "'",
        1,
        "the prompt has .* tokens, the max_length is 32: shorten it",
    ),
    ("reconstruct {here}/nvae --text ''", 1, "--text is empty: give a text of at least one word"),
    ("reconstruct {here}/nvae --text a --data b", 1, "both --text and --data say what to encode: give one of them"),
    (
        "reconstruct {here}/nvae --text '" + "word " * 99 + "'",
        1,
        "has .* tokens, the model's max_length is 32: shorten it",
    ),
    ("reconstruct {here}/nvae --data {here}/none.txt", 1, r"none\.txt does not exist\. Give a"),
    ("reconstruct {here}/lm", 1, "a LanguageModel has no latents, so no posterior .*: sample from it instead"),
    ("plot {here}/nvae --out /proc/plots", 1, r"/proc/plots.* cannot be written \(.*\): choose another folder"),
]


@pytest.mark.parametrize(("arguments", "code", "message"), CASES, ids=[str(i) for i in range(len(CASES))])
def test_bad_input_gets_one_line(
    arguments: str, code: int, message: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    exit_code, error = complaint(arguments.format(here=here), capsys)
    assert re.search(message, error), error
    assert exit_code == code
    assert not (here / "new").exists() or not (here / "new" / "config.yaml").exists()


@pytest.mark.parametrize(
    "options",
    [
        "lm --data {here}/none.txt",
        "lm --data {here}/few.txt",
        "lm --data {here}/good.txt --model.heads 7",
        "nvae --data {here}/good.txt --keep 0.5",
        "lm --resume",
    ],
)
def test_what_is_refused_before_a_corpus_is_kept_leaves_no_folder(
    options: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    complaint(f"fit {options.format(here=here)} --out {here}/runs/typo", capsys)
    assert not (here / "runs").exists()


@pytest.mark.parametrize(
    "options",
    [
        "lm --attention probabilistic --model.key_steps 2 --model.dropout 0.1",
        "lm --free_bits 1",
        "lm --objective iw --num_particles 2",
        "della --attention probabilistic",
        "della --model.first_layer 2 --model.last_layer 1",
        "della --model.latent_prior pyroformer.priors.VampPrior --guide.posterior residual",
        "nvae --model.nvib_decoder_layers 1 --model.positions rotary",
        "nvae --objective elbo --lambda_d 1",
        "nvae --objective elbo --guide.alpha relu",
        "nvae --keep 0.5",
        "della --model.latent_prior pyroformer.priors.LinearMixture --free_bits 1 --free_bits_per dimension",
        "lm --vocabulary 300 --tokenizer bytes",
        "lm --init_from {here}/lm --beta 0.5",
        "lm --init_from {here}/lm --train latents",
        "vae --init_from {here}/lm --objective nvib",
        "vae --guide.log_variance -1",
        "vae --model.rotary_base 5",
        "nvae --init_from {here}/lm --guide.alpha relu --objective elbo",
        "nvae --init_from {here}/lm --objective iw --num_particles 1",
    ],
)
def test_options_that_do_not_go_together_are_refused_before_a_text_is_read(
    options: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    complaint(f"fit {options.format(here=here)} --data {here}/good.txt --out {here}/runs/typo", capsys)
    assert not (here / "runs").exists()


@pytest.mark.parametrize("value", ["x", "", "-1", "1.5", "9" * 30])
@pytest.mark.parametrize("name", ["RANK", "LOCAL_RANK"])
def test_a_process_without_a_number_gets_one_line(
    name: str, value: str, here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    code, error = complaint(FIT.format(here=here), capsys)
    assert code == 1
    assert f"the environment variable {name} is {value!r}: unset it, or give the number of this process" in error


def test_python_without_docstrings_is_refused(tmp_path: Path) -> None:
    code = "from pyroformer.inference.cli.main import main; raise SystemExit(main(['sample', 'run']))"
    done = subprocess.run([sys.executable, "-OO", "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: python runs without docstrings (-OO)") and done.stderr.count("\n") == 1


@pytest.mark.parametrize("size", [None, "1", "x"])
def test_a_rank_without_other_processes_gets_one_line(
    size: str | None, here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    if size is not None:
        monkeypatch.setenv("WORLD_SIZE", size)
    code, error = complaint(FIT.format(here=here), capsys)
    assert code == 1
    assert f"RANK is 1, but WORLD_SIZE, the number of processes, is {size or 'not set'}: unset RANK" in error


LEFT_OVER: list[tuple[dict[str, str], str | None]] = [
    ({"RANK": "1", "WORLD_SIZE": "2"}, "RANK"),
    ({"LOCAL_RANK": "1", "WORLD_SIZE": "2"}, "LOCAL_RANK"),
    ({"RANK": "0", "LOCAL_RANK": "1", "WORLD_SIZE": "2"}, "LOCAL_RANK"),
    ({"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29511"}, "RANK"),
    ({"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}, None),
    (
        {"SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "x", "SLURM_NTASKS": "2", "SLURM_PROCID": "1", "SLURM_LOCALID": "1"},
        None,
    ),
    ({"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2", "PMI_RANK": "1", "PMI_SIZE": "2"}, None),
]


@pytest.mark.parametrize(("variables", "name"), LEFT_OVER)
def test_variables_of_a_launcher_that_is_not_there(
    variables: dict[str, str],
    name: str | None,
    here: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for key, value in variables.items():
        monkeypatch.setenv(key, value)
    fit = ["fit", "lm", "--data", f"{here}/good.txt", "--out", f"{tmp_path}/run", "--steps", "2", *TINY.split()]
    code = main(fit)
    output, error = capsys.readouterr()
    if name is None:
        assert (code, error) == (0, "") and "run saved in" in output
    else:
        assert code == 1 and error == (
            f"error: the environment variable {name} is 1, but this process was started neither by torchrun nor by "
            f"fit itself: unset {name}, or start all processes with torchrun.\n"
        )


def test_several_tasks_of_srun_are_refused(
    here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "8")
    fit = ["fit", "lm", "--data", f"{here}/good.txt", "--out", f"{tmp_path}/run", "--devices", "2", *TINY.split()]
    assert main(fit) == 1
    assert "error: --devices is 2, and srun has started 8 tasks" in capsys.readouterr().err


PRIOR_CASES = [
    (
        "--model.weight_prior nosuch.Prior",
        2,
        r"weight_prior nosuch\.Prior cannot be used \(No module named 'nosuch'\): give",
    ),
    (
        "--model.weight_prior my_priors.Nope",
        2,
        r"my_priors\.Nope cannot be used \(.*no attribute 'Nope'\): give the import",
    ),
    (
        "--model.weight_prior os.getcwd",
        2,
        r"--model\.weight_prior is 'os\.getcwd': give the import path of a WeightPrior",
    ),
    (
        "--model.weight_prior my_priors.Narrow",
        2,
        "weight_prior is 'my_priors.Narrow': give the import path of a WeightPrior",
    ),
    (
        "--model.base_measure my_priors.Narrow",
        1,
        r"base_measure Narrow gave event shape \(3,\), expected \(8,\): return",
    ),
    (
        "--model.base_measure gausian",
        2,
        r"base_measure is 'gausian': give one of tokens, .*, gaussian or the import path of a BaseMeasure",
    ),
    (
        "--model.base_measure codebook --model.base_measure.entries 7",
        2,
        r"base_measure\.entries is an argument of a class, and --model\.base_measure gives none: give",
    ),
    ("--model.weight_prior my_priors.Unfinished", 1, r"Unfinished is a WeightPrior: write forward\(mask\)"),
]


@pytest.mark.parametrize(
    ("arguments", "code", "message"), PRIOR_CASES, ids=[case[0].split(".")[-1] for case in PRIOR_CASES]
)
def test_priors_that_cannot_be_used(
    arguments: str,
    code: int,
    message: str,
    here: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(here)
    exit_code, error = complaint(f"{FIT.format(here=here)} {arguments}", capsys)
    assert re.search(message, error), error
    assert exit_code == code


class Hostile:
    """Writes a file if it is ever unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return eval, (f"__import__('pathlib').Path({str(self.marker)!r}).touch()",)


def best(run: Path) -> Path:
    return run / "checkpoints" / "best.ckpt"


def hostile(run: Path) -> None:
    torch.save({"state_dict": {}, "global_step": 1, "x": Hostile(run / "executed")}, best(run))


def configured(change: Callable[[dict[str, object]], object]) -> Callable[[Path], None]:
    def spoil(run: Path) -> None:
        config = yaml.safe_load((run / "config.yaml").read_text())
        change(config)
        (run / "config.yaml").write_text(yaml.safe_dump(config))

    return spoil


def foreign(config: dict[str, object]) -> None:
    config["model"]["init_args"]["weight_prior"] = {"class_path": "my_priors.Flat", "init_args": {}}  # type: ignore[index]


SPOILT: list[tuple[str, Callable[[Path], object], str, str]] = [
    (
        "cut",
        lambda run: best(run).write_bytes(best(run).read_bytes()[:3000]),
        "sample",
        "best.ckpt .*cut short or not a",
    ),
    ("empty", lambda run: best(run).write_bytes(b""), "evaluate", "best.ckpt .*not a checkpoint"),
    ("text", lambda run: best(run).write_text("weights"), "reconstruct", "best.ckpt .*not loaded|not a checkpoint"),
    (
        "hostile",
        hostile,
        "sample",
        "best.ckpt holds more than tensors and plain data, or is damaged: it was not loaded",
    ),
    ("no weights", lambda run: torch.save({"a": 1}, best(run)), "plot", "is not a checkpoint of pyroformer"),
    (
        "other model",
        lambda run: shutil.copy(best(run.parent / "lm"), best(run)),
        "sample",
        "checkpoint of another model",
    ),
    (
        "no checkpoint",
        lambda run: shutil.rmtree(run / "checkpoints"),
        "sample",
        "no checkpoint yet, let fit run for longer",
    ),
    ("no metrics", lambda run: (run / "metrics.csv").unlink(), "plot", "has no metrics yet: let fit run for longer"),
    ("no corpus", lambda run: shutil.rmtree(run / "corpus"), "sample", "holds no corpus"),
    (
        "cut corpus",
        lambda run: (run / "corpus" / "train.tokens.npy").write_bytes(b""),
        "sample",
        "the corpus .* damaged",
    ),
    ("not YAML", lambda run: (run / "config.yaml").write_text("model: ["), "sample", "config.yaml is damaged"),
    ("binary", lambda run: (run / "config.yaml").write_bytes(b"\xff\xfe\x00"), "sample", "config.yaml is damaged"),
    (
        "no model",
        lambda run: (run / "config.yaml").write_text("a: 1"),
        "sample",
        "is not a run's configuration: it names no",
    ),
    ("a text for a model", configured(lambda config: config.update(model="NVAE")), "sample", "config.yaml is"),
    (
        "a list for a model",
        configured(lambda config: config.update(model=[1])),
        "fit nvae --resume --out",
        "config.yaml is",
    ),
    (
        "code",
        configured(lambda config: config.update(model={"class_path": "os.system"})),
        "sample",
        "os.system, which is code",
    ),
    (
        "our code",
        configured(lambda c: c.update(model={"class_path": "pyroformer.load"})),
        "sample",
        "not something that a run",
    ),
    (
        "no such class",
        configured(lambda c: c.update(model={"class_path": "pyroformer.X"})),
        "sample",
        "cannot be imported",
    ),
    (
        "a list for a class",
        configured(lambda c: c.update(model={"class_path": [], "init_args": {}})),
        "sample",
        "config.yaml is damaged: its model names no class",
    ),
    (
        "a number for an objective",
        configured(lambda c: c.update(objective={"class_path": 3, "init_args": {}})),
        "evaluate",
        "configuration names 3 where it names a class: restore its config.yaml",
    ),
    (
        "layers without end",
        configured(lambda c: c["model"]["init_args"]["config"]["init_args"].update(layers=10**9)),  # type: ignore[index]
        "sample",
        "layers is 1000000000: give at most 10000",
    ),
    (
        "foreign prior",
        configured(foreign),
        "sample",
        r"uses my_priors.Flat, which is code outside .*--trust my_priors.Flat",
    ),
    ("foreign, resumed", configured(foreign), "fit nvae --resume --out", "my_priors.Flat.*--trust my_priors.Flat"),
]


@pytest.mark.parametrize(
    ("spoil", "command", "message"), [case[1:] for case in SPOILT], ids=[case[0] for case in SPOILT]
)
def test_spoilt_runs(
    spoil: Callable[[Path], object],
    command: str,
    message: str,
    here: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = here / "spoilt"
    shutil.rmtree(run, ignore_errors=True)
    shutil.copytree(here / "nvae", run)
    (here / "imported").unlink(missing_ok=True)
    monkeypatch.chdir(here)
    spoil(run)
    code, error = complaint(f"{command} {run}", capsys)
    assert re.search(message, error), error
    assert code == 1
    assert not (run / "executed").exists(), "a checkpoint was executed"
    assert not (here / "imported").exists(), "code that nobody named was imported"
