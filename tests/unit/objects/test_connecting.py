"""Which endpoint, which credentials, which errors: settings first, then each cloud's own environment."""

from __future__ import annotations

import importlib
import inspect
import json
import pickle
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import obstore.exceptions
import pytest

from ml_toolbox.base import errors
from ml_toolbox.base.errors import Bug, Denied, Invalid, MissingExtra, ToolboxError
from ml_toolbox.base.uri import Uri
from ml_toolbox.objects import AzureCredentials, S3Credentials, Secret, StoreSettings, connecting, open_store
from ml_toolbox.objects.faults import TABLE, translate
from tests.unit.objects.scripted_s3 import ScriptedS3, scripted_s3

CLOUD_VARIABLES = ("AWS_", "AZURE_", "BOTO")


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in list(os.environ):
        if name.startswith(CLOUD_VARIABLES):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.fixture
def server() -> Iterator[ScriptedS3]:
    with scripted_s3() as state:
        yield state


def signer(server: ScriptedS3) -> str:
    """Who signed the last request: ``KEY/date/region/s3/...``, or ""."""
    authorization = server.requests[-1].headers.get("authorization", "")
    return authorization.partition("Credential=")[2].partition(",")[0]


# errors


def test_every_exception_of_the_library_is_in_the_table() -> None:
    theirs = {name for name, kind in vars(obstore.exceptions).items() if inspect.isclass(kind)}
    assert theirs
    missing = theirs - TABLE.keys()
    assert not missing, f"obstore has gained {missing}: decide what the caller does next, and add them to faults.TABLE"
    builtin = {name for name in TABLE if hasattr(__builtins__, name) or name in dir(__import__("builtins"))}
    assert TABLE.keys() - theirs == builtin, "the table names exceptions that do not exist any more"


def test_a_class_is_translated_by_itself_or_its_nearest_base() -> None:
    for name, ours in TABLE.items():
        kind = getattr(obstore.exceptions, name, None) or getattr(__import__("builtins"), name)
        error = translate(kind("text"), "key", "s3://bucket")
        assert type(error) is ours
        assert error.resource == "s3://bucket/key"
    assert type(translate(RuntimeError("new"), "key", "s3://bucket")) is Bug


# S3


def test_settings_sign(server: ScriptedS3) -> None:
    credentials = S3Credentials(access_key_id="given", secret_access_key=Secret("s"), session_token=Secret("token"))
    settings = StoreSettings(endpoint=server.endpoint, allow_http=True, region="eu-north-1", credentials=credentials)
    open_store("s3://bucket", settings=settings).put("o", b"")
    assert signer(server).startswith("given/")
    assert "/eu-north-1/s3/" in signer(server)
    assert server.requests[-1].headers["x-amz-security-token"] == "token"


def test_the_environment_is_enough(server: ScriptedS3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")  # the special one wins over it
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", server.endpoint)
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "from-environment")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-south-2")
    open_store("s3://bucket").put("o", b"")
    assert signer(server).startswith("from-environment/")
    assert "/eu-south-2/s3/" in signer(server)


def test_a_profile_is_read_by_boto3(server: ScriptedS3, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "credentials").write_text("[work]\naws_access_key_id = from-profile\naws_secret_access_key = s\n")
    (tmp_path / "config").write_text("[profile work]\nregion = ap-east-1\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_PROFILE", "work")
    open_store("s3://bucket", settings=StoreSettings(endpoint=server.endpoint, allow_http=True)).put("o", b"")
    assert signer(server).startswith("from-profile/")
    assert "/ap-east-1/s3/" in signer(server)


def test_a_profile_without_boto3_is_not_silently_another_account(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "work")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra) as refusal:
        open_store("s3://bucket").head("o")
    assert "ml-toolbox[aws]" in refusal.value.hint


def test_no_credentials_at_all_is_denied_with_the_ways_to_give_them() -> None:
    with pytest.raises(Denied) as refusal:
        open_store("s3://bucket").head("o")
    assert "AWS_ACCESS_KEY_ID" in refusal.value.hint


def test_anonymous_requests_are_unsigned(server: ScriptedS3) -> None:
    settings = StoreSettings(endpoint=server.endpoint, allow_http=True, anonymous=True)
    open_store("s3://bucket", settings=settings).put("o", b"")
    assert "authorization" not in server.requests[-1].headers


@pytest.mark.parametrize(("chosen", "unsigned"), [(None, False), (True, True), (False, False)])
def test_payload_signing(server: ScriptedS3, chosen: bool | None, unsigned: bool) -> None:
    credentials = S3Credentials(access_key_id="k", secret_access_key=Secret("s"))
    settings = StoreSettings(
        endpoint=server.endpoint, allow_http=True, credentials=credentials, unsigned_payload=chosen
    )
    open_store("s3://bucket", settings=settings).put("o", b"bytes")
    assert (server.requests[-1].headers["x-amz-content-sha256"] == "UNSIGNED-PAYLOAD") is unsigned


def test_over_https_the_payload_is_not_hashed_again() -> None:
    credentials = S3Credentials(access_key_id="k", secret_access_key=Secret("s"))
    for endpoint in ("", "https://s3.example.com"):
        clients = connecting.s3(Uri.parse("s3://bucket"), StoreSettings(endpoint=endpoint, credentials=credentials))
        assert clients.retrying.config["unsigned_payload"] == "true"


def test_conditional_writes_go_through_a_client_that_never_retries() -> None:
    credentials = S3Credentials(access_key_id="k", secret_access_key=Secret("s"))
    clients = connecting.s3(Uri.parse("s3://bucket"), StoreSettings(credentials=credentials, retries=5))
    assert clients.retrying.retry_config["max_retries"] == 5
    assert clients.once.retry_config["max_retries"] == 0


@pytest.mark.parametrize("endpoint", ["ftp://x", "localhost:9000", "s3.example.com"])
def test_an_endpoint_is_a_url(endpoint: str) -> None:
    with pytest.raises(Invalid, match="no http"):
        open_store("s3://bucket", settings=StoreSettings(endpoint=endpoint, anonymous=True)).head("o")


# Azure


def azure_config(uri: str, settings: StoreSettings | None = None) -> dict[str, object]:
    return dict(connecting.azure(Uri.parse(uri), settings or StoreSettings()).retrying.config)


def test_the_account_is_named_somewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Invalid, match="which storage account"):
        azure_config("az://container")
    assert azure_config("az://container@there")["account_name"] == "there"
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "fromenv")
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", "a2V5")
    config = azure_config("az://container")
    assert (config["account_name"], config["account_key"]) == ("fromenv", "a2V5")


def test_connection_strings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_ALLOW_HTTP", "true")
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", "UseDevelopmentStorage=true")
    config = azure_config("az://container")
    assert (config["account_name"], config["endpoint"]) == (
        "devstoreaccount1",
        "http://127.0.0.1:10000/devstoreaccount1",
    )
    monkeypatch.setenv(
        "AZURE_STORAGE_CONNECTION_STRING",
        "DefaultEndpointsProtocol=https;AccountName=acc;AccountKey=a2V5PT0=;EndpointSuffix=core.chinacloudapi.cn",
    )
    config = azure_config("az://container")
    assert (config["account_name"], config["account_key"]) == ("acc", "a2V5PT0=")
    assert config["endpoint"] == "https://acc.blob.core.chinacloudapi.cn"
    monkeypatch.setenv(
        "AZURE_STORAGE_CONNECTION_STRING", "BlobEndpoint=https://x.example.com/;SharedAccessSignature=sv=1&sig=2"
    )
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT", "acc")
    config = azure_config("az://container")
    assert config["endpoint"] == "https://x.example.com"
    assert "sas_key" in config


def test_azure_identity_is_used_when_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    class DefaultAzureCredential:
        def get_token(self, *scopes: str, tenant_id: str | None = None) -> types.SimpleNamespace:
            return types.SimpleNamespace(token="signed-in", expires_on=4102444800)

    identity = types.ModuleType("azure.identity")
    identity.DefaultAzureCredential = DefaultAzureCredential  # type: ignore[attr-defined]
    identity.aio = types.ModuleType("azure.identity.aio")  # type: ignore[attr-defined]
    identity.__spec__ = importlib.machinery.ModuleSpec("azure.identity", None)
    package = types.ModuleType("azure")
    package.identity = identity  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "azure", package)
    monkeypatch.setitem(sys.modules, "azure.identity", identity)
    monkeypatch.setitem(sys.modules, "azure.identity.aio", identity.aio)
    monkeypatch.delitem(sys.modules, "obstore.auth.azure", raising=False)
    with scripted_s3() as server:
        settings = StoreSettings(endpoint=server.endpoint, allow_http=True)
        with pytest.raises(ToolboxError):
            open_store("az://container@account", settings=settings).get("o")
        assert server.requests[-1].headers["authorization"] == "Bearer signed-in"
    monkeypatch.delitem(sys.modules, "obstore.auth.azure", raising=False)


def test_credentials_of_the_other_cloud_are_refused() -> None:
    with pytest.raises(Invalid, match="Azure credentials for an s3"):
        open_store("s3://bucket", settings=StoreSettings(credentials=AzureCredentials(account="acc"))).head("o")
    wrong = S3Credentials(access_key_id="k", secret_access_key=Secret("s"))
    with pytest.raises(Invalid, match="S3 credentials for an az"):
        open_store("az://container", settings=StoreSettings(credentials=wrong)).head("o")


# secrets and imports


def test_secrets_do_not_show() -> None:
    secret = Secret("very secret")
    settings = StoreSettings(credentials=S3Credentials(access_key_id="k", secret_access_key=secret))
    for text in (str(secret), repr(secret), f"{secret}", repr(settings), str(settings)):
        assert "very" not in text
        assert "***" in text
    with pytest.raises(TypeError):
        pickle.dumps(secret)
    assert secret.reveal() == "very secret"
    assert secret == Secret("very secret") != Secret("other")


def test_nothing_heavy_is_imported_before_the_first_call(tmp_path: Path) -> None:
    program = f"""
import json, sys
import ml_toolbox.objects as objects
for uri in ("s3://bucket/x", "az://container@account/x", "memory://m"):
    objects.open_store(uri).lacks
store = objects.open_store({str(tmp_path)!r})
store.put("a", b"")
list(store.list())
print(json.dumps(sorted({{name.partition(".")[0] for name in sys.modules}})))
"""
    loaded = json.loads(
        subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout
    )
    assert not {"obstore", "boto3", "botocore", "azure", "numpy", "pathspec"} & set(loaded)


def test_table_targets_are_ours() -> None:
    assert all(vars(errors)[kind.__name__] is kind for kind in TABLE.values())
