"""What a user may say about a store; everything left unsaid comes from the cloud's own environment variables."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


class Secret:
    """Text that shows itself as ``***``; :meth:`reveal` is the only way to read it, so that uses can be searched for."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        return self._value

    def __repr__(self) -> str:
        return "Secret('***')"

    def __str__(self) -> str:
        return "***"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash((Secret, self._value))

    def __reduce__(self) -> tuple[object, ...]:
        raise TypeError("a secret is not serialised; pass it on explicitly with reveal()")


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Credentials:
    """A key pair, with a session token when it is temporary."""

    access_key_id: str
    secret_access_key: Secret
    session_token: Secret | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AzureCredentials:
    """Exactly one of an account key, a shared access signature or a bearer token, for the named storage account."""

    account: str
    account_key: Secret | None = None
    sas_token: Secret | None = None
    bearer_token: Secret | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreSettings:
    """Settings of one store. File and memory stores need none of them.

    Attributes:
        endpoint: URL of the service when it is not the cloud's own: an S3-compatible server, an emulator. "" (default): from
            ``AWS_ENDPOINT_URL_S3``, ``AWS_ENDPOINT_URL`` or ``AZURE_STORAGE_CONNECTION_STRING``, else the cloud itself.
        region: S3 region. "" (default): ``AWS_REGION``, ``AWS_DEFAULT_REGION``, the boto3 profile, else us-east-1.
        credentials: ``None`` (default): the environment variables of the cloud, then (with the extra ``aws`` or ``azure``
            installed) the SDK's own chain of profiles and sign-ins, then the identity of the machine.
        anonymous: send requests unsigned, for public data. Off by default.
        allow_http: permit an endpoint without TLS. Off by default because credentials and data would travel readable;
            ``AWS_ALLOW_HTTP`` / ``AZURE_ALLOW_HTTP`` = ``true`` do the same.
        connect_timeout_s: seconds to reach the server. 10: above the 3 s and 7 s marks of the TCP SYN retries.
        read_timeout_s: seconds without a byte from the server before a request counts as dead. A part of an upload
            (12 MiB) must be sent within it, so 120 allows links down to 105 kB/s. There is no limit on a whole transfer
            (the library's default of 30 s for request and body breaks any long stream); 0 switches the limit off.
        retries: how often a failed request is sent again, with exponential backoff. 8 waits about half a minute in all.
            0 switches retrying off.
        retry_timeout_s: seconds after which no further retry of one request begins. 180 keeps a request younger than
            five minutes, the age at which S3 rejects its signature.
        unsigned_payload: S3 only: leave the body's hash out of the signature. ``None`` (default): yes over https, where
            TLS protects the body already and the hash is half of the client's upload cost (measured: 1.05 s of CPU per GiB
            signed, 0.57 s unsigned); no over http.
        on_unconditional: what to do on an S3-compatible server that is found to ignore conditions. ``refuse`` (default):
            conditional writes raise ``Unsupported``, everything else works. ``single-writer``: compare on this side, under
            a lock of this process, and warn: correct with one writing process only.
    """

    endpoint: str = ""
    region: str = ""
    credentials: S3Credentials | AzureCredentials | None = field(default=None)
    anonymous: bool = False
    allow_http: bool | None = None
    connect_timeout_s: float = 10.0
    read_timeout_s: float = 120.0
    retries: int = 8
    retry_timeout_s: float = 180.0
    unsigned_payload: bool | None = None
    on_unconditional: Literal["refuse", "single-writer"] = "refuse"
