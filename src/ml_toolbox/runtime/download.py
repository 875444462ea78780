"""``python -m ml_toolbox.runtime.download URI FOLDER``: fetch one input from object storage into a folder."""

from __future__ import annotations

import sys

from ml_toolbox.base.errors import ToolboxError


def main(arguments: list[str]) -> int:
    from ml_toolbox import objects

    uri, folder = arguments
    try:
        objects.download(uri, folder)
    except ToolboxError as error:
        sys.stderr.write(f"{error.message}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
