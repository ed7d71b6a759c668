"""Cost of DELLA: a training step, its activations, and sampling; side by side in one process.

by hand     an encoder pass and a decoder pass of the same backbone in plain PyTorch, the mean encoder
            state added to the decoder's embeddings; no latents, and our readout
collapsed   DELLA whose product is collapsed, as published
product     DELLA with the true product of rank 4

A step is the loss, its gradients and AdamW. Activations are the bytes that the blocks keep for the backward pass,
parameters left out. Sampling generates texts of 128 tokens with the cache, or without it.

    python benchmarks/della.py --width 256 --layers 4 --out table.md
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pyro
import torch
import torch.nn.functional as F
from measuring import milliseconds, random_batch
from reporting import command_line, markdown
from torch import Tensor, nn

from pyroformer.guides.della import DELLAGuide
from pyroformer.inference.objectives.elbo import ELBO
from pyroformer.inference.training.compiled import NO_VALIDATION
from pyroformer.models.batch import EOS, Batch
from pyroformer.models.della import DELLA
from pyroformer.models.transformer.blocks import Block, compile_blocks
from pyroformer.models.transformer.config import TransformerConfig
from pyroformer.models.transformer.memory import Context
from pyroformer.models.transformer.stacks import Decoder
from pyroformer.models.transformer.text_distribution import AutoregressiveText
from pyroformer.models.transformer.token_likelihood import TokenLikelihood

LATENT, RANK, LENGTH = 32, 4, 128


def by_hand(backbone: Decoder, batch: Batch) -> Tensor:
    """Both passes of the backbone and the loss, without latents."""
    assert batch.tokens is not None and batch.mask is not None
    before = F.pad(batch.tokens[:, :-1], (1, 0), value=backbone.config.bos)
    seen = backbone.embedding(before)
    for block in backbone.blocks:
        seen = block(seen, batch.mask)
    mean = (seen * batch.mask[..., None]).sum(1, keepdim=True) / batch.lengths[:, None, None]
    x = backbone.embedding(before) + mean
    for block in backbone.blocks:
        x = block(x, causal=True)
    readout = TokenLikelihood(backbone.norm(x), *backbone.readout, mask=batch.mask, validate_args=False)
    return -(batch.weight * readout.log_prob(batch.tokens)).sum()


def ways(config: TransformerConfig, batch: Batch, device: str) -> dict[str, tuple[nn.Module, Callable[[], Tensor]]]:
    """The networks and the loss of each implementation."""
    torch.manual_seed(0)
    backbone = Decoder(config).to(device)
    implementations: dict[str, tuple[nn.Module, Callable[[], Tensor]]] = {
        "by hand": (backbone, lambda: by_hand(backbone, batch))
    }
    for name in ("collapsed", "product"):
        torch.manual_seed(0)
        model = DELLA(config, latent_size=LATENT, fusion=name, rank=RANK).to(device)
        objective = ELBO()(model, DELLAGuide(model).to(device))
        implementations[name] = (objective, lambda objective=objective: objective(batch))
    if device == "cuda":
        for network, _ in implementations.values():
            compile_blocks(network)
    return implementations


def stepper(network: nn.Module, loss: Callable[[], Tensor]) -> Callable[[], object]:
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, fused=True)

    def step() -> None:
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()

    return step


@contextmanager
def kept(network: nn.Module) -> Iterator[Callable[[], int]]:
    """Count the bytes that blocks keep for the backward pass, every storage once."""
    inside, sizes = [0], {}
    weights = {p.untyped_storage().data_ptr() for p in network.parameters()}

    def pack(x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        if inside[0] and storage.data_ptr() not in weights:
            sizes[storage.data_ptr()] = storage.nbytes()
        return x

    hooks = []
    for block in network.modules():
        if isinstance(block, Block):
            hooks.append(block.register_forward_pre_hook(lambda *_: inside.__setitem__(0, 1)))
            hooks.append(block.register_forward_hook(lambda *_: inside.__setitem__(0, 0)))
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        yield lambda: sum(sizes.values())
    for hook in hooks:
        hook.remove()


def activations(network: nn.Module, loss: Callable[[], Tensor]) -> int:
    with kept(network) as total:
        value = loss()  # alive until counted: no storage is used twice
        return total() + 0 * int(value.numel())


def sampling(config: TransformerConfig, texts: int, repeats: int, device: str) -> dict[str, float]:
    """Milliseconds to write texts of LENGTH tokens."""
    model = DELLA(config, latent_size=LATENT, rank=RANK).to(device).eval()
    context = Context(torch.randn(texts, config.layers, LATENT, device=device))

    def never_end(logits: Tensor) -> Tensor:
        return logits[:, EOS + 1 :].argmax(-1) + EOS + 1

    @torch.no_grad()
    def again() -> Tensor:
        tokens = torch.zeros(texts, 0, dtype=torch.long, device=device)
        for _ in range(LENGTH):
            hidden = model.decoder(F.pad(tokens, (0, 1), value=EOS), context)[:, -1]
            tokens = torch.cat([tokens, never_end(hidden @ model.decoder.readout[0].T)[:, None]], 1)
        return tokens

    def cached() -> Tensor:
        return AutoregressiveText(model.decoder, context).decode(never_end, (texts,), LENGTH)

    assert torch.equal(again(), cached())
    return milliseconds({"cached": cached, "again": again}, repeats, device)


def report(width: int, layers: int, vocabulary: int, texts: int, time: int, repeats: int, device: str) -> str:
    """The tables as markdown."""
    config = TransformerConfig(
        vocabulary, max_length=LENGTH, width=width, layers=layers, heads=max(1, width // 64), positions="learned"
    )
    torch.manual_seed(1)
    batch = random_batch(vocabulary, texts, time, time // 2, device)
    with pyro.settings.context(**NO_VALIDATION):
        made = ways(config, batch, device)
        taken = milliseconds({name: stepper(*way) for name, way in made.items()}, repeats, device)
        held = {name: activations(*way) for name, way in made.items()}
    about = (
        f"torch {torch.__version__}, {device}, {torch.get_num_threads()} threads; width {width}, {layers} layers, "
        f"{vocabulary:,} tokens, {texts} texts of up to {time} tokens, latents of {LATENT}, rank {RANK}; fastest of "
        f"{repeats}"
    )
    head = ["training step", "time", "of by hand", "activations of the blocks, MB", "of by hand"]
    rows = [
        [
            name,
            f"{taken[name]:.1f} ms",
            f"{taken[name] / taken['by hand']:.2f}",
            f"{held[name] / 2**20:.1f}",
            f"{held[name] / held['by hand']:.2f}",
        ]
        for name in made
    ]
    speed = sampling(config, 8, max(1, repeats // 10), device)
    writing = [
        ["with the cache", f"{speed['cached']:.0f} ms"],
        ["reading the prefix again", f"{speed['again']:.0f} ms"],
        ["ratio", f"{speed['again'] / speed['cached']:.1f}"],
    ]
    return f"{about}\n\n{markdown(head, rows)}\n{markdown([f'8 texts of {LENGTH} tokens', 'time'], writing)}"


if __name__ == "__main__":
    command_line(
        report, __doc__, width=256, layers=4, vocabulary=4000, texts=32, time=32, repeats=20,
        device="cuda" if torch.cuda.is_available() else "cpu",
    )  # fmt: skip
