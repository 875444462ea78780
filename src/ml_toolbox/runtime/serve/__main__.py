"""``python -m ml_toolbox.runtime.serve``: see :mod:`ml_toolbox.runtime.serve.cli`."""

from __future__ import annotations

import sys

from ml_toolbox.runtime.serve.cli import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
