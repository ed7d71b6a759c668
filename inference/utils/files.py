"""Files that are written whole or not at all."""

import errno
import os
import shutil
from pathlib import Path
from typing import Any

__all__ = ["write_atomically"]


def write_atomically(path: Path, write: Any) -> None:
    """Write beside the file or folder and rename over it, so that a kill or a full disk leaves the old one whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        os.replace(temporary, path)
    except RuntimeError as error:
        if "PytorchStreamWriter" in str(error):  # torch's word for what the system calls a full disk
            raise OSError(errno.ENOSPC, f"{path} could not be written whole: is the disk full?") from error
        raise
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary)
        temporary.unlink(missing_ok=True)
