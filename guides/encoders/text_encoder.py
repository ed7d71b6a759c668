r"""A pretrained encoder, frozen, that reads a text by its own tokenizer.

The story of a batch::

    text    = the text that the batch's tokens stand for, by the corpus's tokenizer
    w_1..m  = the encoder's own tokens of that text
    h_1..m  = its last hidden states, which are computed once a text and kept
"""

import json
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, TypeVar

import tokenizers
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from ...models.batch import BOS, EOS, PAD
from ...models.serialization import Configurable
from ...models.utils.precision import without_autocast
from .bert import build_bert, max_tokens, read_bert
from .state_cache import CACHE_BYTES, EncodedText, StateCache

__all__ = ["TextEncoder", "check_encoder"]

BUCKET = 8  # a text is padded to the next multiple of it, whatever its batch is: its states do not depend on that
ROWS = 64  # texts that the network reads at a time

E = TypeVar("E", bound="TextEncoder")


class TextEncoder(Configurable, nn.Module):
    r"""A frozen BERT, such as MiniLM, MPNet or RoBERTa, with its own tokenizer, for guides to read texts with.

    .. math:: h_1, \dots, h_m = \operatorname{BERT}(w_1, \dots, w_m)

    are its last hidden states for its own tokens :math:`w` of a text, those that it puts at both ends included. The
    text is that which the tokens of the batch stand for, to the byte (bytes that are not UTF-8 are read as �); what the
    encoder's tokenizer makes of it, such as lower case, is the encoder's matter.

    No gradient reaches it and nothing in it is trained; it is in eval mode and outside autocast. The states of a text
    are computed once and kept in ``cache``, main memory of 1 GiB at most; a full cache keeps what it has, and other
    texts are read each time. On a GPU, a step waits for the tokens to come back from the device.

    A run has its weights and its tokenizer once, in ``checkpoints/frozen.ckpt``: loading one needs no other folder, but
    the package ``transformers``.

    Arguments:
        config: The configuration of the network, as plain data; its weights are random. See :meth:`from_pretrained`.

    Raises:
        ValueError: If the configuration is of no known family or damaged, or the package ``transformers`` is missing.

    References:
        BERT: Pre-training of Deep Bidirectional Transformers (Devlin et al., 2019), https://arxiv.org/abs/1810.04805
        MiniLM (Wang et al., 2020), https://arxiv.org/abs/2002.10957

    Examples:
        >>> sizes = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 100}
        >>> encoder = TextEncoder({"model_type": "bert", **sizes})
        >>> encoder.width, encoder.max_tokens
        (24, 512)

        With its weights and its tokenizer, from a folder that ``save_pretrained`` wrote, or a name on the hub:

        .. code-block:: python

            encoder = pf.TextEncoder.from_pretrained("sentence-transformers/all-MiniLM-L6-v2")
            run = pf.fit(model, pf.DELLAGuide(model, encoder=encoder), corpus)
    """

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.network = build_bert(config).requires_grad_(False).eval()
        hf_config: Any = self.network.config
        self.width = int(hf_config.hidden_size)
        self.max_tokens = max_tokens(hf_config)
        self._pad = int(hf_config.pad_token_id or 0)
        self.cache = StateCache()
        self._own: tokenizers.Tokenizer | None = None
        self._corpus: tokenizers.Tokenizer | None = None

    @classmethod
    def from_pretrained(cls: type[E], source: str | Path, tokenizer: Any = None, cache_bytes: int = CACHE_BYTES) -> E:
        """Reads an encoder: a folder with ``config.json``, weights and a tokenizer.

        Arguments:
            source: The folder; where there is none of this name, the name of a model on the Hugging Face hub.
            tokenizer: That of the corpus, which gives the texts of a batch back; :func:`~pyroformer.fit` sets it.
            cache_bytes: Bound of the memory for hidden states.

        Raises:
            ValueError: If there is none, it is no encoder of a known family, weights are missing, or the package
                ``transformers`` is.
        """
        read = read_bert(source)
        encoder = cls(read.config)
        encoder.network.load_state_dict(read.network.state_dict())
        encoder._own = read.tokenizer
        encoder.cache.limit = cache_bytes
        if tokenizer is not None:
            encoder.set_tokenizer(tokenizer)
        return encoder

    def set_tokenizer(self, tokenizer: Any) -> None:
        """Sets the tokenizer of the corpus, ``corpus.tokenizer``, which gives the texts of a batch back.

        Raises:
            ValueError: If it is none, or the encoder has another one already.
        """
        core = getattr(tokenizer, "core", None)
        if not isinstance(core, tokenizers.Tokenizer):
            kind = type(tokenizer).__name__
            raise ValueError(f"the tokenizer is a {kind}: give the TextEncoder that of the corpus, corpus.tokenizer.")
        if self._corpus is not None and json.loads(self._corpus.to_str()) != json.loads(core.to_str()):
            raise ValueError(
                "the TextEncoder reads the tokens of another corpus, by another tokenizer: make one for this corpus "
                "with TextEncoder.from_pretrained."
            )
        self._corpus = core

    def forward(
        self, tokens: Int[Tensor, "B T"], mask: Bool[Tensor, "B T"]
    ) -> tuple[Float[Tensor, "B n P"], Bool[Tensor, "B n"]]:
        """Hidden states of the texts of a batch, and which of them are of a token of the encoder.

        Arguments:
            tokens: The decoder's tokens.
            mask: True where there is a token.
        """
        return self.encode(self.decode(tokens, mask))

    def decode(self, tokens: Int[Tensor, "B T"], mask: Bool[Tensor, "B T"]) -> list[str]:
        """The texts that tokens of the corpus stand for, without their ends.

        Raises:
            ValueError: If the tokenizer of the corpus is not known.
        """
        if self._corpus is None:
            raise ValueError(
                "the TextEncoder does not know the tokenizer of the texts: call "
                "encoder.set_tokenizer(corpus.tokenizer), as fit does."
            )
        lengths = mask.sum(-1).tolist()
        rows = [row[:length] for row, length in zip(tokens.tolist(), lengths, strict=True)]
        return self._corpus.decode_batch(rows)

    def encode(self, texts: Sequence[str]) -> tuple[Float[Tensor, "B n P"], Bool[Tensor, "B n"]]:
        """Hidden states of texts, and which of them are of a token of the encoder.

        Raises:
            ValueError: If a text has more tokens than the encoder has positions.
        """
        rows = [encoded.states for encoded in self.read(texts)]
        place = next(self.network.parameters())
        lengths = torch.tensor([len(row) for row in rows])
        padded = pad_sequence(rows, batch_first=True)
        present = torch.arange(padded.shape[1]) < lengths[:, None]
        return padded.to(place.device, place.dtype), present.to(place.device)

    def read(self, texts: Sequence[str]) -> list[EncodedText]:
        """Hidden states of each text and their characters, in main memory.

        Raises:
            ValueError: If a text has more tokens than the encoder has positions.
        """
        kept = {text: self.cache.get(text) for text in texts}
        known = {text: encoded for text, encoded in kept.items() if encoded is not None}
        for text, encoded in self._read([text for text in kept if text not in known]):
            known[text] = encoded
            self.cache.add(text, encoded)
        return [known[text] for text in texts]

    def token_bytes(self, token: int) -> int:
        """The number of bytes of text in a token of the corpus; 0 for a special one."""
        assert self._corpus is not None, "decode is called before, and refuses this"
        letters: str = self._corpus.id_to_token(token) or ""  # one for each byte
        return 0 if token in (PAD, BOS, EOS) else len(letters)

    def check(self, texts: Iterable[str]) -> None:
        """Raises a ValueError if a text has more tokens than the encoder has positions."""
        self._encodings(list(texts))

    def train(self: E, mode: bool = True) -> E:
        """Eval mode, whatever is asked for: it is frozen."""
        return super().train(False)

    def get_extra_state(self) -> UInt8[Tensor, " bytes"]:
        """Both tokenizers, which belong to a checkpoint as the weights do."""
        cores = {"own": self._own, "corpus": self._corpus}
        written = json.dumps({name: core.to_str() for name, core in cores.items() if core is not None})
        return torch.frombuffer(bytearray(written.encode()), dtype=torch.uint8)

    def set_extra_state(self, state: UInt8[Tensor, " bytes"]) -> None:
        """Restore both tokenizers and clear the cache, because the weights change with them."""
        cores = json.loads(bytes(state.cpu().numpy()).decode())
        self._own, self._corpus = (
            tokenizers.Tokenizer.from_str(cores[name]) if name in cores else None for name in ("own", "corpus")
        )
        self.cache.clear()

    def extra_repr(self) -> str:
        return f"width={self.width}, max_tokens={self.max_tokens}, frozen"

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        self.cache.clear()  # the weights may be rounded
        return super()._apply(fn, recurse)

    def _encodings(self, texts: list[str]) -> list[tokenizers.Encoding]:
        """The encoder's tokens of texts."""
        if self._own is None:
            raise ValueError("the TextEncoder has no weights: make it with TextEncoder.from_pretrained, or load a run.")
        self._own.encode_special_tokens = True  # "[SEP]" in a text is letters, not an end
        encodings: list[tokenizers.Encoding] = self._own.encode_batch(texts)
        for text, encoding in zip(texts, encodings, strict=True):
            if len(encoding) > self.max_tokens:
                raise ValueError(
                    f"{text[:40]!r}... has {len(encoding)} tokens of the text encoder, which reads {self.max_tokens}: "
                    "lower max_length, or choose another encoder."
                )
        return encodings

    def _read(self, texts: list[str]) -> Iterable[tuple[str, EncodedText]]:
        """Encode texts that are not in the cache; yields (text, EncodedText)."""
        encodings = self._encodings(texts)
        order = sorted(range(len(texts)), key=lambda row: len(encodings[row]))
        for length, group in groupby(order, key=lambda row: -(-len(encodings[row]) // BUCKET) * BUCKET):
            rows = list(group)
            for start in range(0, len(rows), ROWS):
                some = rows[start : start + ROWS]
                hidden = self._states([encodings[row].ids for row in some], min(length, self.max_tokens))
                for row, states in zip(some, hidden, strict=True):
                    yield texts[row], EncodedText(states, torch.tensor(encodings[row].offsets, dtype=torch.int32))

    def _states(self, ids: list[list[int]], length: int) -> list[Float[Tensor, "n P"]]:
        """The network's last hidden states of rows of tokens, in main memory."""
        device = next(self.network.parameters()).device
        # Ordinary tensors of full precision: what is kept may be used under autograd, and with another precision.
        with torch.inference_mode(False), torch.no_grad(), without_autocast(device):
            tokens = torch.tensor([row + [self._pad] * (length - len(row)) for row in ids], device=device)
            mask = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in ids], device=device)
            hidden: Tensor = self.network(input_ids=tokens, attention_mask=mask).last_hidden_state.cpu()
            # A view would keep the padding.
            return [states[: len(row)].clone() for states, row in zip(hidden, ids, strict=True)]


def check_encoder(encoder: object, names: Iterable[str] = ()) -> None:
    """Raises a ValueError unless it is a :class:`TextEncoder`; ``names`` are what a guide takes in place of one.

    Examples:
        >>> check_encoder(nn.Linear(2, 2))
        Traceback (most recent call last):
        ValueError: encoder has type Linear: give a pf.TextEncoder, or derive a guide whose encoder is your network.
    """
    if not isinstance(encoder, TextEncoder):
        choices = ", ".join([*names, "a pf.TextEncoder"])
        kind = type(encoder).__name__
        raise ValueError(f"encoder has type {kind}: give {choices}, or derive a guide whose encoder is your network.")
