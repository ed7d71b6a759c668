"""Each command from its arguments to its output, on a corpus of a few lines."""

import inspect
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from matplotlib.figure import Figure

from pyroformer.inference.cli.main import main
from pyroformer.inference.cli.options.option_help import Option, options
from pyroformer.inference.cli.parser import COMMANDS, NETWORK, TRAINING, parse
from pyroformer.inference.utils.registry import MODELS, imported
from pyroformer.models.base import Model

ROOT = Path(__file__).resolve().parents[2]
TINY = (
    "--model.width 8 --model.layers 1 --model.heads 2 --vocabulary 270 --max_length 32 --batch_size 8 --validations 1"
)


NOTICE = r"samples from the prior; rate, KL of all latents on validation texts: [\d.]+ nats/token\n"


def command(arguments: str, capsys: pytest.CaptureFixture[str]) -> str:
    """What a command prints, all having gone well."""
    capsys.readouterr()
    code = main(shlex.split(arguments))
    out, error = capsys.readouterr()
    assert code == 0, error
    assert error == "" or (arguments.startswith("sample") and re.fullmatch(NOTICE, error))
    return out


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory, sentences: list[str]) -> Path:
    here = tmp_path_factory.mktemp("here")
    (here / "texts.txt").write_text("\n".join(sentences))
    (here / "chosen_priors.py").write_text(PRIORS)
    return here


PRIORS = """
import pyroformer as pf
import torch
from pyro import distributions as dist

class Flat(pf.priors.WeightPrior):
    def __init__(self, log_concentration: float = 0.0):
        super().__init__()
        self.log_concentration = log_concentration

    def forward(self, mask):
        return pf.distributions.LogDirichlet(torch.full(mask.shape, self.log_concentration), mask)

class Wide(pf.priors.VectorPrior):
    def __init__(self, width: int, scale: float = 2.0):
        super().__init__()
        self.register_buffer("loc", torch.zeros(width))
        self.scale = scale

    def forward(self):
        return dist.Normal(self.loc, self.scale).to_event(1)
"""


@pytest.fixture(scope="module")
def nvae(here: Path) -> Path:
    assert (
        main(shlex.split(f"fit nvae --prior gaussian --data {here}/texts.txt --out {here}/nvae --steps 3 {TINY}")) == 0
    )
    return here / "nvae"


@pytest.fixture(scope="module")
def vae(here: Path) -> Path:
    assert main(shlex.split(f"fit vae --prior gaussian --data {here}/texts.txt --out {here}/vae --steps 3 {TINY}")) == 0
    return here / "vae"


@pytest.fixture(scope="module")
def lm(here: Path) -> Path:
    assert main(shlex.split(f"fit lm --data {here}/texts.txt --out {here}/lm --steps 3 {TINY}")) == 0
    return here / "lm"


@pytest.fixture(scope="module")
def della(here: Path) -> Path:
    two = TINY.replace("--model.layers 1", "--model.layers 2 --model.latent_size 4")
    assert main(shlex.split(f"fit della --data {here}/texts.txt --out {here}/della --steps 3 {two}")) == 0
    return here / "della"


@pytest.mark.parametrize("model", MODELS)
def test_fit_says_what_it_does(model: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = here / f"said-{model}"
    said = command(f"fit {model} --data {here}/texts.txt --out {out} --steps 3 {TINY}", capsys).splitlines()
    assert re.match(r"reading texts\.txt: 80 texts.*, 270-token BPE", said[0])
    assert re.match(r"training on .*, float32, \w+ tiny, [\d,]+ parameters", said[1])
    assert re.match(r"100 % \| step 3 \| objective.* \d+\.\d\d \| ", said[2])
    assert "not a bound" not in said[2]
    recipe = yaml.safe_load((out / "config.yaml").read_text())["model"]["init_args"]
    prior = recipe.get("base_measure", {}).get("class_path")
    assert prior == ("pyroformer.priors.TokenVectorPrior" if model in ("nvae", "vae") else None)
    if prior:  # whose vectors say where a text ends
        assert recipe["base_measure"]["init_args"]["eos"] == 2 and "length_prior" not in recipe
    assert ("KL" in said[2]) == (model != "lm")
    assert said[3] == f"best at step 3; run saved in {out}"
    assert len(said[4:]) == (model != "lm")
    assert all(re.match(r"the latents cost \d+\.\d+ nats a text \(their KL\)", line) for line in said[4:])


@pytest.mark.parametrize(
    "options",
    ["--objective nvib --delta 0.2", "--guide.alpha relu --delta 0.2", "--keep 0.5 --guide.alpha relu", "--lambda_g 2"],
)
def test_the_options_of_the_published_nvae_come_with_its_prior(
    here: Path, capsys: pytest.CaptureFixture[str], options: str, tmp_path: Path
) -> None:
    said = command(f"fit nvae --data {here}/texts.txt --out {tmp_path}/run --steps 1 {options} {TINY}", capsys)
    assert "objective (nvib, not a bound)" in said


def test_an_objective_derived_from_the_published_one_comes_with_its_prior(
    here: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "derived_nvib.py").write_text("from pyroformer.inference import NVIB\n\nclass Mine(NVIB):\n    pass\n")
    monkeypatch.chdir(tmp_path)
    said = command(f"fit nvae --data {here}/texts.txt --out run --steps 1 --objective derived_nvib.Mine {TINY}", capsys)
    assert "objective (Mine, not a bound)" in said


def test_a_run_says_that_its_kl_is_averaged(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = here / "averaged"
    said = command(
        f"fit nvae --data {here}/texts.txt --out {out} --steps 1 --objective elbo --kl_reduction mean {TINY}", capsys
    )
    words = "KL averaged over 2 latents: effective beta = 0.5"
    assert f"objective ({words}, not a bound)" in said
    table = command(f"evaluate {out} --num_particles 1 --limit 2", capsys)
    [line] = [line for line in table.splitlines() if line.startswith(f"objective that was trained: elbo, {words}")]
    assert line.endswith("not a bound")
    assert yaml.safe_load((out / "config.yaml").read_text())["objective"]["is_bound"] is False


def test_evaluate_prints_a_table_and_writes_json(nvae: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = nvae / "test.json"
    table = command(f"evaluate {nvae} --num_particles 2 --json {file}", capsys)
    assert "importance-weighted, K = 2" in table and "not a bound" in table
    metrics = json.loads(file.read_text(), parse_constant=pytest.fail)["metrics"]  # NaN and infinities are no JSON
    assert 0 <= metrics["accuracy"]["units"]["share"]["value"] <= 1
    assert not list(nvae.glob(".*tmp"))


def test_evaluate_on_other_texts(nvae: Path, lm: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "others").mkdir()
    for split in ("train", "valid", "test"):
        (here / "others" / f"{split}.txt").write_text(f"The {split} text.\nAnother one.\n")
    file = here / "others.json"
    command(f"evaluate {lm} --data {here}/others --json {file}", capsys)
    assert json.loads(file.read_text())["about"]["texts"] == 2
    (here / "others" / "train.txt").write_bytes(b"\xff")  # which is not read
    command(f"evaluate {lm} --data {here}/others --json {file}", capsys)
    command(f"evaluate {nvae} --data {here}/texts.txt --limit 7 --num_particles 1 --json {file}", capsys)
    assert json.loads(file.read_text())["about"]["texts"] == 7


def test_sample_is_seeded_and_one_line_of_json_each(nvae: Path, lm: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for run in (nvae, lm):
        first = command(f"sample {run} -n 3 --seed 7 --temperature 0.9 --top_k 50 --top_p 0.9", capsys)
        assert len([json.loads(line)["text"] for line in first.splitlines()]) == 3
        assert first == command(f"sample {run} -n 3 --seed 7 --temperature 0.9 --top_k 50 --top_p 0.9", capsys)
        assert first != command(f"sample {run} -n 3 --seed 8 --temperature 0.9 --top_k 50 --top_p 0.9", capsys)
    greedy = command(f"sample {lm} -n 2 --greedy", capsys).splitlines()
    assert greedy[0] == greedy[1]


def test_an_empty_output_stays_a_line(
    lm: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pyroformer.inference.generation.generate.sample", lambda *_, **options: ["", "a\nb"])
    assert command(f"sample {lm}", capsys) == '{"text": ""}\n{"text": "a\\nb"}\n'


def test_reconstruct(nvae: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    held_out = [json.loads(line) for line in command(f"reconstruct {nvae} -n 2", capsys).splitlines()]
    assert [set(item) >= {"original", "reconstruction", "tokens", "token_weights"} for item in held_out] == [True, True]
    (item,) = [json.loads(line) for line in command(f"reconstruct {nvae} --text 'Größe 7'", capsys).splitlines()]
    assert item["original"] == "Größe 7" and len(item["tokens"]) == len(item["token_weights"])
    assert len(command(f"reconstruct {nvae} --data {here}/texts.txt", capsys).splitlines()) == 80
    drawn = f"reconstruct {nvae} --temperature 1.5 --seed "
    assert command(drawn + "1", capsys) != command(drawn + "2", capsys)


@pytest.mark.parametrize("model", MODELS)
def test_plot_prints_the_paths_of_pictures(
    model: str,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Figure, "savefig", lambda figure, file, **_: Path(file).write_bytes(b"a picture"))
    paths = command(f"plot {request.getfixturevalue(model)} --out {tmp_path}/plots", capsys).splitlines()
    assert paths and all(Path(path).read_bytes() == b"a picture" for path in paths)


def test_resume_goes_on_and_needs_nothing_but_the_folder(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = here / "resumed"
    fit = f"fit nvae --data {here}/texts.txt --out {out} --resume --steps"
    assert "best at step 2" in command(f"{fit} 2 {TINY}", capsys)  # with nothing there yet it begins
    said = command(f"fit nvae --out {out} --resume --steps 4", capsys)
    assert said.startswith(f"resuming {out}: texts.txt: 80 texts")
    assert re.search(r"100 % \| step 4 ", said)
    assert yaml.safe_load((out / "config.yaml").read_text())["training"]["batch_size"] == 8
    command(
        f"fit nvae --data {here}/texts.txt --out {out} --resume --steps 5 --model.width 8 --max_length 32 "
        "--compile off",
        capsys,
    )


def test_priors_by_import_path(here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(here)
    priors = "--model.weight_prior chosen_priors.Flat --model.weight_prior.log_concentration 0.5"
    priors += " --model.base_measure chosen_priors.Wide"
    command(f"fit nvae --data texts.txt --out priors --steps 2 {TINY} {priors}", capsys)
    recipe = yaml.safe_load(Path("priors/config.yaml").read_text())["model"]["init_args"]
    assert recipe["weight_prior"] == {"class_path": "chosen_priors.Flat", "init_args": {"log_concentration": 0.5}}
    assert recipe["base_measure"] == {"class_path": "chosen_priors.Wide", "init_args": {"width": 8}}
    assert main(shlex.split("sample priors")) == 1  # importing is running: not unless it is named
    command("sample priors --trust chosen_priors", capsys)
    command(f"fit nvae --out priors --resume --steps 3 {priors} --trust chosen_priors.Flat chosen_priors.Wide", capsys)


def test_priors_by_name(here: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "options.yaml").write_text("model: {base_measure: codebook}\n")
    for number, given in enumerate(("--model.base_measure codebook", f"--config {tmp_path}/options.yaml")):
        out = tmp_path / str(number)
        command(f"fit vae --data {here}/texts.txt --out {out} --steps 1 {given} {TINY}", capsys)
        recipe = yaml.safe_load((out / "config.yaml").read_text())["model"]["init_args"]
        assert recipe["base_measure"]["class_path"] == "pyroformer.priors.CodebookVectorPrior"


def test_a_printed_configuration_can_be_given_back(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    printed = command(f"fit nvae --data {here}/texts.txt --steps 2 {TINY} --guide.alpha relu --print_config", capsys)
    config = yaml.safe_load(printed)
    assert config["guide"]["alpha"] == "relu" and config["batch_size"] == 8 and config["learning_rate"] > 0
    (here / "config.yaml").write_text(printed)
    command(f"fit nvae --config {here}/config.yaml --out {here}/configured --steps 1", capsys)
    run = yaml.safe_load((here / "configured" / "config.yaml").read_text())
    assert run["guide"]["init_args"]["alpha"] == "relu" and run["training"]["steps"] == 1
    assert run["model"]["init_args"]["config"]["init_args"]["width"] == 8


def test_interrupting_is_no_accident(
    lm: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("pyroformer.inference.generation.generate.sample", interrupt)
    assert main(["sample", str(lm)]) == 130
    assert capsys.readouterr().err == "error: interrupted\n"
    monkeypatch.setattr("pyroformer.inference.cli.prepare.prepare_folder", interrupt)
    ways = {
        lm: "fit goes on with --resume, from what was saved",
        lm / "none": "the same command begins again, from what",
    }
    for out, way in ways.items():
        assert main(["fit", "lm", "--data", "builtin", f"--out={out}"]) == 130
        assert capsys.readouterr().err.startswith(f"error: interrupted; {way}")


def test_a_full_disk_is_said_in_one_line(
    lm: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device", "runs/x/metrics.csv")

    monkeypatch.setattr("pyroformer.inference.generation.generate.sample", full)
    assert main(["sample", str(lm)]) == 1
    error = capsys.readouterr().err
    assert (
        error == "error: runs/x/metrics.csv: No space left on device. Nothing already written is lost: make room, then "
        "give the command again.\n"
    )


def test_only_the_first_of_several_processes_speaks(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    assert main(["fit", "lm", "--data", f"{here}/none.txt", "--out", f"{here}/silent"]) == 1
    assert main(["fit", "lm", "--help"]) == 0
    assert capsys.readouterr() == ("", "")
    assert not (here / "silent").exists()


HELP = [["--help"], ["fit", "--help"], *[["fit", model, "--help"] for model in MODELS], *[[c, "-h"] for c in COMMANDS]]


@pytest.mark.parametrize("arguments", HELP, ids=" ".join)
def test_help_has_an_example(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    text = command(shlex.join(arguments), capsys)
    assert text.startswith("usage: pyroformer")
    assert len(re.findall(r"^  pyroformer \w+|pyroformer demo$", text, re.MULTILINE)) >= 1
    assert not re.search(r"Optional\[|Union|\bnull\b|`|:\w+:`", text), "help is for people"
    assert not re.search(r"[\\$]|:math:|text(?!s\b|ual)[a-z]|sqrt[a-z]|\bcirc\b|frac\b|frac\d", text), (
        "no LaTeX in a terminal"
    )


def test_the_runs_in_the_examples_of_fit_prior_have_a_prior_to_replace(capsys: pytest.CaptureFixture[str]) -> None:
    first, *others = re.findall(r"^  pyroformer (.*)", command("fit-prior -h", capsys), re.MULTILINE)
    assert first.startswith("fit nvae --data reviews.txt --out runs/published --objective nvib")
    assert others and all(line.startswith("fit-prior runs/published ") for line in others)


@pytest.mark.parametrize("columns", [1, 50, 80, 110])
def test_help_fits_the_terminal(
    columns: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    for arguments in ("--help", "fit --help", "fit nvae --help", "evaluate --help"):
        lines = command(arguments, capsys).splitlines()
        prose = [line for line in lines if not re.match(r"  pyroformer|usage:|  --\S+ \S+$", line)]  # not to be broken
        longest = max(len(line) for line in prose)
        assert longest <= max(columns, 44) and (columns < 110 or longest > 100), arguments


def test_the_program_shows_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    text = command("--help", capsys)
    for name in COMMANDS:
        assert re.search(rf"^  {name} +\w", text, re.MULTILINE)
    first = (inspect.getdoc(sys.modules[main.__module__]) or "").splitlines()[0]
    assert first == f"Command line: {', '.join(COMMANDS)}."


def test_shared_options_are_those_of_every_command() -> None:
    def described(name: str) -> dict[str, Option]:
        return {option.name: option for option in options(COMMANDS[name])}

    decoding = [described(name) for name in ("sample", "reconstruct", "interpolate", "swap", "edit")]
    for option in options("pyroformer.inference.cli.options.shared_options:DecodingOptions"):
        assert option.help
        assert [command[option.name] for command in decoding] == [option] * 5
    opening = [described(name) for name in COMMANDS if name not in ("fit", "demo")]
    for option in options("pyroformer.inference.cli.options.shared_options:RunOptions"):
        assert [command[option.name] for command in opening] == [option] * len(opening)


def test_a_command_without_decoding_options_is_greedy() -> None:
    from pyroformer.inference.cli.options.shared_options import decoding_strategy
    from pyroformer.inference.generation.decoding import Decoding

    assert decoding_strategy({"run": "x", "seed": 3}) == Decoding(greedy=True)
    assert decoding_strategy({"run": "x", "top_k": 5}) == Decoding(top_k=5)
    assert decoding_strategy({"run": "x", "temperature": 0.5, "top_p": None}) == Decoding(temperature=0.5)
    assert decoding_strategy({"run": "x", "top_p": None}, greedy=False) == Decoding()
    assert decoding_strategy({"run": "x", "top_p": None}, greedy=True) == Decoding(greedy=True)
    with pytest.raises(ValueError, match=r"temperature is -1\.0: give 1e-30 to"):
        decoding_strategy({"run": "x", "temperature": -1.0})


def test_help_does_not_wait_for_torch() -> None:
    code = f"""
import sys
from pyroformer.inference.cli.main import main
assert all(main(arguments) == 0 for arguments in {HELP!r})
heavy = {{"torch", "numpy", "pyro", "lightning", "matplotlib", "tokenizers"}} & set(sys.modules)
assert not heavy, heavy
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment())
    assert done.returncode == 0, done.stderr


def test_interpolate_and_swap_write_a_line_of_json_each(della: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = "--text 'Number 1 is odd.' --other 'Number 2 is even.'"
    between = [json.loads(line) for line in command(f"interpolate {della} {texts} --steps 3", capsys).splitlines()]
    assert [item["t"] for item in between] == [0.0, 0.5, 1.0]
    swapped = [json.loads(line) for line in command(f"swap {della} {texts}", capsys).splitlines()]
    assert [item["layers"] for item in swapped] == [[], [1], [2], [1, 2]]
    assert swapped[0]["text"] == between[0]["text"] and swapped[-1]["text"] == between[-1]["text"]
    hot = command(f"swap {della} {texts} --layers 1-2 --temperature 3 --seed 1", capsys)
    assert hot == command(f"swap {della} {texts} --layers 1-2 --temperature 3 --seed 1", capsys)


def test_evaluate_says_what_each_layer_carries(della: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = della / "test.json"
    table = command(f"evaluate {della} --num_particles 5 --json {file}", capsys)
    assert "importance-weighted, K = 4" in table and "importance-weighted, K = 5" in table
    metrics = json.loads(file.read_text(), parse_constant=pytest.fail)["metrics"]
    assert {"kl_z_1", "mutual_information_z_2", "marginal_kl_z_1", "active_z_2", "sensitivity"} <= set(metrics)


def test_as_a_module() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pyroformer", "fit", "nvea"], capture_output=True, text=True, env=environment()
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: model is 'nvea': choose one of lm, della, nvae, vae (did you mean nvae?).\n"


def test_fit_takes_the_kind_of_attention(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = tmp_path / "texts.txt"
    texts.write_text("\n".join(f"The number {n} follows {n - 1}." for n in range(1, 60)))
    small = "--model.width 16 --model.layers 1 --model.heads 2 --steps 2 --vocabulary 270 --batch_size 8"
    command(f"fit lm --data {texts} --out {tmp_path / 'run'} --attention probabilistic {small}", capsys)
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert "attention: probabilistic" in yaml.safe_dump(config)
    assert command(f"sample {tmp_path / 'run'} -n 2", capsys).count("\n") == 2
    assert main(shlex.split(f"fit lm --data {texts} --out {tmp_path / 'other'} --attention hard")) == 2
    assert "--attention is 'hard': give one of softmax, probabilistic" in capsys.readouterr().err


def test_flags_may_have_dashes_and_values_keep_theirs() -> None:
    given = ["lm", "--data", "a-b.txt", "--out=my-run", "--batch-size", "8", "--init-from", "gpt2-medium"]
    assert parse("fit", given) == {
        "name": "lm",
        "data": "a-b.txt",
        "out": "my-run",
        "batch_size": 8,
        "init_from": "gpt2-medium",
    }


def test_help_lists_the_choices_of_an_option(capsys: pytest.CaptureFixture[str]) -> None:
    text = command("fit della --help", capsys)
    assert "--model.fusion product|collapsed|add|film" in text and "--guide.pool attention|mean|first" in text


def test_help_shows_the_defaults_of_the_model(capsys: pytest.CaptureFixture[str]) -> None:
    def default(model: str, option: str) -> str:
        text = " ".join(command(f"fit {model} --help", capsys).split())
        match = re.search(rf"--model.{option} .*?\(default: (\w+)\)", text)
        assert match is not None
        return match[1]

    assert (default("lm", "positions"), default("nvae", "positions")) == ("rotary", "learned")
    assert (default("lm", "tied"), default("lm", "bias"), default("lm", "null_component")) == ("true", "false", "false")


def test_help_says_what_a_size_is(capsys: pytest.CaptureFixture[str]) -> None:
    text = " ".join(command("fit lm --help", capsys).split())
    sizes = [tuple(size.values()) for size in Model.sizes.values()]
    tiny, small, base = sizes
    words = "tiny has width {}, {} layers and {} heads; small {}, {} and {}; base {}, {} and {}."
    assert words.format(*tiny, *small, *base) in text
    assert all(re.search(rf"--model.{name} N [^-]*\(default: that of --size\)", text) for name in Model.sizes["tiny"])
    assert "Resume the run in --out, with its texts, model and options. " in text, "a flag without a value is off"


@pytest.mark.parametrize(("given", "expected"), [("", True), (" true", True), (" false", False), ("=false", False)])
def test_options_of_a_model_that_are_off_take_a_value_too(given: str, expected: bool) -> None:
    parsed = parse("fit", shlex.split(f"lm --data a --out b --model.bias{given} --steps 2"))
    assert parsed["model"]["bias"] is expected and parsed["steps"] == 2


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT / "src")}


@pytest.mark.parametrize("path", [NETWORK, TRAINING, *[p for classes in MODELS.values() for p in classes if p]])
def test_options_read_from_source_are_those_of_the_class(path: str) -> None:
    from inspect import Parameter, signature

    described = {option.name: option.default for option in options(path)}
    real = {
        p.name: None if p.default is Parameter.empty else p.default
        for p in signature(imported(path)).parameters.values()
    }
    assert described | {"pad": 0, "bos": 1, "eos": 2} == real | {"pad": 0, "bos": 1, "eos": 2}
    assert all(option.help for option in options(path)), "each option needs a line in the docstring"


def test_posterior_is_kept_as_netcdf(nvae: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import arviz

    file = tmp_path / "posterior.nc"
    said = command(f"posterior {nvae} --out {file} --draws 30 -n 2 --sites weights", capsys)
    assert re.match(rf"30 draws of 2 texts in {file}; k-hat of log p - log q: median \d", said)
    assert list(arviz.from_netcdf(file)["posterior"]) == ["weights"]


def test_posterior_has_a_khat_of_texts_where_what_they_share_is_fixed(
    here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, prior = tmp_path / "run", "--model.weight_prior GammaDirichletProcess"
    command(f"fit nvae --prior gaussian {prior} --data {here}/texts.txt --out {out} --steps 3 {TINY}", capsys)
    draw = f"posterior {out} --out {tmp_path}/posterior.nc --draws 30 -n 2"
    said = command(draw, capsys)
    assert "; no k-hat: all texts share 'weight_prior.concentration'" in said and "draw with --fix_global" in said
    assert "; k-hat of log p - log q: median" in command(f"{draw} --fix_global", capsys)
