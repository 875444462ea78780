"""``python -m ml_toolbox.runtime.download URI FOLDER``: fetch one input, an object or all below a prefix, into a folder."""

from __future__ import annotations

import sys
from pathlib import Path

from ml_toolbox.base.errors import NotFound, ToolboxError


def fetch(uri: str, folder: Path) -> None:
    """An object of that name, or else everything below the URI, lands in ``folder``. ``NotFound`` when there is neither."""
    from ml_toolbox.objects import locate, open_store
    from ml_toolbox.objects.transfer import download_file, download_folder

    folder.mkdir(parents=True, exist_ok=True)
    if not uri.endswith("/"):
        store, key = locate(uri)
        try:
            download_file(store, key, folder / key)
        except NotFound:
            pass
        else:
            return
    download_folder(open_store(uri), "", folder)


def main(arguments: list[str]) -> int:
    uri, folder = arguments
    try:
        fetch(uri, Path(folder))
    except ToolboxError as error:
        sys.stderr.write(f"{error.message}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
