"""``ml-toolbox-runtime train|serve``: the one entry point of every container and local process."""

from __future__ import annotations

import sys

_USAGE = "usage: ml-toolbox-runtime train --root DIR | serve [options]\n"


def main(argv: list[str] | None = None) -> int:
    """Run one of the two. Returns the exit status; each mode is imported only when it is the one wanted."""
    arguments = sys.argv[1:] if argv is None else argv
    mode, rest = (arguments[0], arguments[1:]) if arguments else ("", [])
    if mode == "train":
        from ml_toolbox.runtime import train

        return train.main(rest)
    if mode == "serve":
        import runpy

        sys.argv = ["ml-toolbox-runtime serve", *rest]
        runpy.run_module("ml_toolbox.runtime.serve", run_name="__main__")
        return 0
    sys.stderr.write(_USAGE)
    return 2


if __name__ == "__main__":
    sys.exit(main())
