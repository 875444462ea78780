"""Zip files from outside (npz, skops, torch, keras): names, links, sizes and ratios are checked before anything is read."""

from __future__ import annotations

import stat
import zipfile

from ml_toolbox.base.errors import Invalid, Untrusted
from ml_toolbox.packages.layout import check_relative

MAX_MEMBERS = 100_000
MAX_TOTAL_BYTES = 64 * 1024**3
# Deflate cannot pass 1032:1; real model files measured stay under 50:1, all-zero weight arrays reach the limit. So a high
# ratio alone counts only when the result is large.
MAX_RATIO = 200
RATIO_FREE_BYTES = 256 * 1024**2


def check_zip(archive: zipfile.ZipFile, *, name: str) -> None:
    """Raise unless every member is a plain file below the root, named once, and the whole is of a sane size.

    Raises :class:`Untrusted` for paths and links that leave the folder and for bombs, :class:`Invalid` for the rest.
    """
    members = archive.infolist()
    if len(members) > MAX_MEMBERS:
        raise Untrusted(f"{name} has {len(members)} members", resource=name, hint=f"at most {MAX_MEMBERS} are read")
    seen: set[str] = set()
    total = packed = 0
    for info in members:
        path = info.filename.removesuffix("/")
        _check_member(info, path, name)
        if path.casefold() in seen:
            raise Untrusted(f"{name} holds {path!r:.100} twice", resource=name, hint="pack it again, each file once")
        seen.add(path.casefold())
        total += info.file_size
        packed += info.compress_size
    if total > MAX_TOTAL_BYTES or (total > RATIO_FREE_BYTES and total > MAX_RATIO * max(packed, 1)):
        raise Untrusted(
            f"{name} would unpack to {total} bytes from {packed}",
            resource=name,
            hint=f"refused as a decompression bomb (limits: {MAX_TOTAL_BYTES} bytes, ratio {MAX_RATIO})",
        )


def _check_member(info: zipfile.ZipInfo, path: str, name: str) -> None:
    try:
        check_relative(path, field=name)
    except Invalid as error:
        raise Untrusted(
            f"{name} has a member outside its folder: {info.filename!r:.100}",
            resource=name,
            hint="pack it again with relative paths",
        ) from error
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise Untrusted(f"{name} has a link or device: {path!r:.100}", resource=name, hint="pack plain files only")
    if info.flag_bits & 0x1:
        raise Invalid(f"{name} is encrypted", field=name)
