"""The first sentences of the built-in corpus, of which only the first files are read."""

import sysconfig
from functools import cache
from itertools import islice
from pathlib import Path

from pyroformer.inference.data.sources import builtin

__all__ = ["few_sentences"]


@cache
def few_sentences(count: int = 1500) -> list[str]:
    documentation = builtin._documentation(Path(sysconfig.get_paths()["stdlib"]))
    found = (sentence for text in documentation for sentence in builtin._english_sentences(text))
    return list(dict.fromkeys(islice(found, count)))
