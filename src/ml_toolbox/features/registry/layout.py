"""Where things lie in a registry's store. All keys are made here and nowhere else.

::

    blobs/sha256/<2 hex>/<64 hex>                       file contents, stored once over all versions and models
    models/<model>/versions/<10 digits>.json            one commit each, created if absent, never changed, never deleted
    models/<model>/head.json                            the only mutable object: compare-and-swap
    models/<model>/keys/<64 hex>.json                   idempotency keys: which number their registration aims at
    models/<model>/audit/<first seq>-<nonce>.json       audit lines that left the head, chained backwards
    models/<model>/notes/<bucket>-<nonce>.json          later tags and descriptions that left the head
    models/<model>/index/<level>/<10 digits>            summaries of 64 (level 1) or 4,096 (level 2) commits
"""

from __future__ import annotations

MODELS = "models"
FANOUT = 64
"""Commits per level-1 segment and level-1 segments per level-2 segment. Listing N versions reads N / 4,096 large
segments and at most 63 small ones and 63 single commits: 46 objects for 10,000 versions, 82 for 100,000."""
LEVEL_SPAN = {1: FANOUT, 2: FANOUT * FANOUT}
NOTES_PER_BUCKET = 256
MAX_NUMBER = 9_999_999_999


def blob(sha256: str) -> str:
    return f"blobs/sha256/{sha256[:2]}/{sha256}"


def version(model: str, number: int) -> str:
    return f"{MODELS}/{model}/versions/{number:010d}.json"


def head(model: str) -> str:
    return f"{MODELS}/{model}/head.json"


def idempotency(model: str, key_sha256: str) -> str:
    return f"{MODELS}/{model}/keys/{key_sha256}.json"


def audit_segment(model: str, segment: str) -> str:
    return f"{MODELS}/{model}/audit/{segment}.json"


def notes_bucket(model: str, bucket: int, revision: str) -> str:
    return f"{MODELS}/{model}/notes/{bucket:08d}-{revision}.json"


def index_segment(model: str, level: int, first: int) -> str:
    return f"{MODELS}/{model}/index/{level}/{first:010d}"
