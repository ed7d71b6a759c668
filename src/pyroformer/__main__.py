"""``python -m pyroformer``: the command line."""

import os
import sys

if __name__ == "__main__":
    if sys.path[:1] in ([""], [os.getcwd()]):  # python -m puts it there; what torch looks for is not taken from it
        del sys.path[0]
    from .inference.cli.main import main

    raise SystemExit(main())
