"""From a URI to a store."""

from __future__ import annotations

import os

from ml_toolbox.base.errors import Invalid
from ml_toolbox.base.uri import Uri, UriLike
from ml_toolbox.objects.local import LocalObjectStore
from ml_toolbox.objects.settings import StoreSettings
from ml_toolbox.ports.lacks import Lacks
from ml_toolbox.ports.objects import ObjectStore


def open_store(uri: UriLike, *, settings: StoreSettings | None = None) -> ObjectStore:
    """The store rooted at ``uri``: a bucket, container or folder, or any folder-like prefix in it.

    Nothing is contacted and no credentials are looked for until the first call. A folder need not exist yet. Opening
    the same ``memory://`` name again in one process gives the same objects. Raises ``Invalid`` for a URI that is none.
    """
    place = Uri.parse(uri)
    settings = settings or StoreSettings()
    if place.scheme == "file":
        return LocalObjectStore(place)
    from ml_toolbox.objects import connecting
    from ml_toolbox.objects.conditional import Probe
    from ml_toolbox.objects.remote import RemoteObjectStore

    if place.scheme == "memory":
        return RemoteObjectStore(
            place,
            lambda: connecting.memory(place.root),
            lacks={"presign": Lacks("never", "memory has no server that could honour a signed URL")},
            probe=Probe(needed=False),
        )
    if place.scheme == "s3":
        return RemoteObjectStore(
            place,
            lambda: connecting.s3(place, settings),
            lacks={},
            # Amazon's own S3 honours conditions since 2024; anything else has to show it.
            probe=Probe(needed=bool(connecting.s3_endpoint(settings)), on_unconditional=settings.on_unconditional),
            retries=settings.retries,
        )
    return RemoteObjectStore(
        place,
        lambda: connecting.azure(place, settings),
        lacks={},
        probe=Probe(needed=False),
        retries=settings.retries,
        utf16_listing=True,
    )


def locate(uri: UriLike, *, settings: StoreSettings | None = None) -> tuple[ObjectStore, str]:
    """The store at the parent of ``uri``, and the key of the object in it.

    A file that the user names by a symbolic link is what the link points to (links *below* a store's root are refused).
    """
    place = Uri.parse(uri)
    if not place.key:
        raise Invalid(f"uri: {place} names a whole store, not an object in it", field="uri", hint=f"{place}/name")
    if place.scheme == "file":
        place = Uri("file", "/", os.path.realpath(place.path)[1:])
    return open_store(place.parent, settings=settings), place.name
