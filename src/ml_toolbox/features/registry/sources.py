"""Where a package comes from when it is registered."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ml_toolbox.packages.layout import check_relative


@contextmanager
def local_folder(package: Path | str) -> Iterator[Path]:
    """The package as a folder: itself, or a temporary copy of what lies at a URI."""
    if isinstance(package, Path) or "://" not in package:
        yield package if isinstance(package, Path) else Path(package)
        return
    from ml_toolbox.objects import open_store  # only now: a registry of local folders needs no second store

    with tempfile.TemporaryDirectory(prefix="mltoolbox-register-") as temporary:
        folder = Path(temporary) / "package"
        folder.mkdir()
        store = open_store(package)
        for meta in store.list():
            target = folder / check_relative(meta.key, field="package")
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("wb") as file:
                for chunk in store.stream(meta.key):
                    file.write(chunk)
        yield folder
