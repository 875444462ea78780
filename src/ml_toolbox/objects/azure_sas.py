"""Azure's shared access signature of one blob, made with the account key.

obstore signs the percent-encoded path where Azure's documentation ("Create a service SAS", canonicalized resource) asks for
the decoded one, so its URLs answer 403 for every name that needs encoding (seen with obstore 0.12.1 against Azurite 3.37).
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from urllib.parse import quote, urlencode

_VERSION: Final = "2023-11-03"


@dataclass(frozen=True, slots=True, kw_only=True)
class BlobSigner:
    """What signing needs to know of a container."""

    account: str
    account_key: str
    endpoint: str
    container: str

    def url(self, blob: str, *, permissions: str, start: datetime, expiry: datetime) -> str:
        """The URL of ``blob`` with its signature; pure, contacts nobody. ``permissions`` as in Azure: ``r``, ``cw``."""
        times = [moment.strftime("%Y-%m-%dT%H:%M:%SZ") for moment in (start, expiry)]
        resource = f"/blob/{self.account}/{self.container}/{blob}"
        # Between resource and version: identifier, address, protocol. After "b" (blob): snapshot, encryption scope, and
        # the five response headers. All unused, and all part of what is signed.
        fields = [permissions, *times, resource, "", "", "", _VERSION, "b", "", "", "", "", "", "", ""]
        digest = hmac.new(base64.b64decode(self.account_key), "\n".join(fields).encode(), hashlib.sha256).digest()
        query = {"sv": _VERSION, "sr": "b", "sp": permissions, "st": times[0], "se": times[1]}
        query["sig"] = base64.b64encode(digest).decode()
        return f"{self.endpoint}/{self.container}/{quote(blob, safe='/~')}?{urlencode(query)}"
