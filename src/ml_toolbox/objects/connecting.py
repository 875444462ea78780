"""Settings and environment into obstore clients. The only module that builds them."""

from __future__ import annotations

import importlib.util
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal
from urllib.parse import quote

from ml_toolbox.base.errors import Denied, Invalid, MissingExtra, Unsupported
from ml_toolbox.base.uri import Uri
from ml_toolbox.objects.azure_sas import BlobSigner
from ml_toolbox.objects.faults import translate
from ml_toolbox.objects.remote import Clients, Presign
from ml_toolbox.objects.settings import AzureCredentials, S3Credentials, StoreSettings

_AZURITE_ACCOUNT: Final = "devstoreaccount1"
# Public: printed in Microsoft's documentation of the emulator, and the same everywhere.
_AZURITE_KEY: Final = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
_AZURITE_ENDPOINT: Final = "http://127.0.0.1:10000/devstoreaccount1"
_UNLIMITED: Final = timedelta(days=7)

_memories: dict[str, Any] = {}
_memories_lock = threading.Lock()


def memory(name: str) -> Clients:
    """The memory store of that name: one per process, alive until the process ends."""
    from obstore.store import MemoryStore

    with _memories_lock:
        store = _memories.setdefault(name, MemoryStore())
    return Clients(retrying=store, once=store)


def s3_endpoint(settings: StoreSettings) -> str:
    """The endpoint in force; "" for Amazon's own. The order of the environment is that of the AWS SDKs."""
    return settings.endpoint or _first("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")


def s3(place: Uri, settings: StoreSettings) -> Clients:
    """Raises ``Invalid`` for a plain-http endpoint without leave, ``Denied`` when no credentials are to be found."""
    from obstore.store import S3Store

    endpoint = s3_endpoint(settings)
    allow_http = _allow_http(endpoint, settings, "AWS_ALLOW_HTTP", "AWS_ENDPOINT_URL")
    # Objects are deleted one by one here, for which the bulk request is heavier and fewer servers know it.
    config: dict[str, Any] = {"unsigned_payload": _unsigned(endpoint, settings), "disable_bulk_delete": True}
    if endpoint:
        config["aws_endpoint_url_s3"] = endpoint
    provider = None
    if settings.anonymous:
        config["skip_signature"] = True
    elif settings.credentials is not None:
        config |= _s3_keys(settings.credentials)
    elif os.environ.get("AWS_PROFILE") or not os.environ.get("AWS_ACCESS_KEY_ID"):
        provider = _boto3_provider()
    region = settings.region or _first("AWS_REGION", "AWS_DEFAULT_REGION")
    config["region"] = region or getattr(provider, "config", {}).get("region") or "us-east-1"
    return _build(S3Store, place, place.root, config, settings, allow_http, provider)


def _unsigned(endpoint: str, settings: StoreSettings) -> bool:
    if settings.unsigned_payload is not None:
        return settings.unsigned_payload
    return not endpoint.lower().startswith("http:")


def _s3_keys(credentials: S3Credentials | AzureCredentials) -> dict[str, str]:
    if not isinstance(credentials, S3Credentials):
        raise Invalid(
            "credentials: Azure credentials for an s3:// store", field="credentials", hint="use S3Credentials"
        )
    keys = {
        "access_key_id": credentials.access_key_id,
        "secret_access_key": credentials.secret_access_key.reveal(),
    }
    if credentials.session_token is not None:
        keys["session_token"] = credentials.session_token.reveal()
    return keys


def _boto3_provider() -> Any:
    """boto3's chain of profiles, sign-ins and roles when it is installed. Without it obstore's own chain remains: web
    identity, container and instance roles; a profile cannot be read then, which must not end in somebody else's account."""
    if importlib.util.find_spec("boto3") is None:
        if os.environ.get("AWS_PROFILE"):
            raise MissingExtra.named("boto3", "aws", f"the profile {os.environ['AWS_PROFILE']!r} (AWS_PROFILE)")
        return None
    from obstore.auth.boto3 import Boto3CredentialProvider

    try:
        return Boto3CredentialProvider()
    except ValueError as error:  # what the provider raises when the whole chain found nothing
        raise Denied(
            "no AWS credentials were found: not in the settings, the environment, a profile, nor from the machine",
            hint="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE; for public data"
            " StoreSettings(anonymous=True)",
        ) from error


@dataclass(frozen=True, slots=True)
class _AzureAccount:
    account: str
    endpoint: str = ""
    key: str = ""
    sas: str = ""


def azure(place: Uri, settings: StoreSettings) -> Clients:
    """Raises ``Invalid`` when no account is named or for plain http without leave."""
    from obstore.store import AzureStore

    said = _azure_environment(os.environ)
    account, _, container = place.root.rpartition("/")
    account = account or _azure_credentials(settings).account or said.account
    if not account:
        raise Invalid(
            f"uri: {place} does not say which storage account",
            field="uri",
            hint="set AZURE_STORAGE_ACCOUNT_NAME or AZURE_STORAGE_CONNECTION_STRING, or write az://container@account/key",
        )
    endpoint = settings.endpoint or (said.endpoint if account == said.account else "")
    allow_http = _allow_http(endpoint, settings, "AZURE_ALLOW_HTTP", "AZURE_STORAGE_CONNECTION_STRING")
    config: dict[str, Any] = {"account_name": account}
    if endpoint:
        config["endpoint"] = endpoint
    own, provider = _azure_identity(settings, said if account == said.account else _AzureAccount(account))
    clients = _build(AzureStore, place, container, config | own, settings, allow_http, provider)
    return replace(clients, presign=_azure_presign(clients, own, account, endpoint, container))


def _azure_presign(clients: Clients, own: dict[str, Any], account: str, endpoint: str, container: str) -> Presign:
    """With the account key we sign; with other credentials obstore does, which fails for names that need encoding."""
    import obstore

    def by_key(method: Literal["GET", "PUT"], key: str, expires: timedelta) -> str:
        signer = BlobSigner(
            account=account,
            account_key=own["account_key"],
            endpoint=endpoint or f"https://{account}.blob.core.windows.net",
            container=container,
        )
        now = datetime.now(UTC)
        # The start lies back a little, because clocks differ (Azure's own advice: 15 minutes).
        return signer.url(
            key, permissions="r" if method == "GET" else "cw", start=now - timedelta(minutes=15), expiry=now + expires
        )

    def by_library(method: Literal["GET", "PUT"], key: str, expires: timedelta) -> str:
        if quote(key, safe="/~") != key:
            raise Unsupported(
                f"signing a URL for {key!r} without the account key: its name needs percent-encoding",
                hint="use an account key, or a key of letters, digits, '-', '.', '_', '~' and '/'",
                resource=key,
            )
        url: str = obstore.sign(clients.retrying, method, key, expires)
        return url

    return by_key if "account_key" in own else by_library


def _azure_credentials(settings: StoreSettings) -> AzureCredentials:
    if isinstance(settings.credentials, S3Credentials):
        raise Invalid(
            "credentials: S3 credentials for an az:// store", field="credentials", hint="use AzureCredentials"
        )
    return settings.credentials or AzureCredentials(account="")


def _azure_identity(settings: StoreSettings, said: _AzureAccount) -> tuple[dict[str, Any], Any]:
    """What signs the requests, as obstore's configuration or its credential provider."""
    if settings.anonymous:
        return {"skip_signature": True}, None
    given = _azure_credentials(settings)
    if given.account_key is not None:
        return {"account_key": given.account_key.reveal()}, None
    if given.sas_token is not None:
        return {"sas_key": given.sas_token.reveal()}, None
    if given.bearer_token is not None:
        return {"token": given.bearer_token.reveal()}, None
    if said.key:
        return {"account_key": said.key}, None
    if said.sas:
        return {"sas_key": said.sas}, None
    # A service principal or workload identity in the environment is read by obstore itself.
    if not _first("AZURE_CLIENT_SECRET", "AZURE_FEDERATED_TOKEN_FILE") and _installed("azure.identity"):
        from obstore.auth.azure import AzureCredentialProvider

        return {}, AzureCredentialProvider()
    return {}, None


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # its parent package is missing
        return False


def _azure_environment(environ: Mapping[str, str]) -> _AzureAccount:
    """Account, endpoint and key as Azure's own tools read them. The connection string wins over the single variables."""
    fields = {}
    for part in environ.get("AZURE_STORAGE_CONNECTION_STRING", "").split(";"):
        name, _, value = part.strip().partition("=")
        fields[name.lower()] = value
    if fields.get("usedevelopmentstorage", "").lower() == "true":
        return _AzureAccount(_AZURITE_ACCOUNT, fields.get("blobendpoint") or _AZURITE_ENDPOINT, _AZURITE_KEY)
    account = fields.get("accountname") or _first(
        "AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_ACCOUNT", environ=environ
    )
    endpoint = fields.get("blobendpoint", "")
    if account and not endpoint and "endpointsuffix" in fields:
        protocol = fields.get("defaultendpointsprotocol") or "https"
        endpoint = f"{protocol}://{account}.blob.{fields['endpointsuffix']}"
    key = fields.get("accountkey") or _first("AZURE_STORAGE_ACCOUNT_KEY", "AZURE_STORAGE_KEY", environ=environ)
    sas = fields.get("sharedaccesssignature") or _first(
        "AZURE_STORAGE_SAS_TOKEN", "AZURE_STORAGE_SAS_KEY", environ=environ
    )
    return _AzureAccount(account, endpoint.rstrip("/"), key, sas)


def _first(*names: str, environ: Mapping[str, str] | None = None) -> str:
    source = os.environ if environ is None else environ
    return next((source[name] for name in names if source.get(name)), "")


def _allow_http(endpoint: str, settings: StoreSettings, switch: str, source: str) -> bool:
    """Whether to speak plain http; raises ``Invalid`` when the endpoint needs it and nobody allowed it."""
    if endpoint and not endpoint.lower().startswith(("http://", "https://")):
        raise Invalid(
            f"endpoint: {endpoint!r} is no http(s) URL", field="endpoint", hint="https://host or http://host:port"
        )
    allowed = settings.allow_http
    if allowed is None:
        allowed = os.environ.get(switch, "").lower() in ("1", "true", "yes")
    if endpoint.lower().startswith("http://") and not allowed:
        raise Invalid(
            f"endpoint: {endpoint} has no TLS, so data and signatures would travel readable",
            field="endpoint",
            hint=f"for a server you trust: StoreSettings(allow_http=True) or {switch}=true; set by settings or {source}",
        )
    return allowed


def _build(
    kind: Any,
    place: Uri,
    container: str,
    config: dict[str, Any],
    settings: StoreSettings,
    allow_http: bool,
    provider: Any,
) -> Clients:
    options = client_options(settings, allow_http)
    try:
        return Clients(
            retrying=kind(
                container,
                config=config,
                client_options=options,
                retry_config=retry_config(settings, settings.retries),
                credential_provider=provider,
            ),
            once=kind(
                container,
                config=config,
                client_options=options,
                retry_config=retry_config(settings, 0),
                credential_provider=provider,
            ),
        )
    except Exception as error:  # every class of the library, by the table
        raise _settings_error(translate(error, "", str(place)), place) from error


def _settings_error(error: Exception, place: Uri) -> Invalid:
    """Building a client contacts nobody, so whatever fails there is a setting, also where obstore calls it generic."""
    return Invalid(
        f"settings: {error}", field="settings", hint="check the endpoint and the credentials", resource=str(place)
    )


def client_options(settings: StoreSettings, allow_http: bool) -> dict[str, Any]:
    """No limit on a whole request, which would cut any long stream; limits on connecting and on silence instead."""
    options: dict[str, Any] = {
        "allow_http": allow_http,
        "timeout": _UNLIMITED,
        "connect_timeout": timedelta(seconds=settings.connect_timeout_s),
    }
    if settings.read_timeout_s > 0:
        options["read_timeout"] = timedelta(seconds=settings.read_timeout_s)
    return options


def retry_config(settings: StoreSettings, retries: int) -> dict[str, Any]:
    return {
        "max_retries": retries,
        "retry_timeout": timedelta(seconds=settings.retry_timeout_s),
        "backoff": {"init_backoff": timedelta(milliseconds=100), "max_backoff": timedelta(seconds=15), "base": 2},
    }
