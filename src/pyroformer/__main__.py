"""``python -m pyroformer``: the command line."""

from .inference.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())
