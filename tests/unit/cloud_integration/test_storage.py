"""Datasets and models by path, on files and on S3, through the guide's names."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from ml_toolbox.base.errors import Invalid, NotFound, Unsupported
from ml_toolbox.cloud_integration import AWSProvider, AzureProvider, CloudStorage, LocalProvider
from ml_toolbox.packages import save_model


def keys(storage: CloudStorage) -> list[str]:
    return [meta.key for meta in storage.provider.folder_store("data").list()]


def test_a_dataset_comes_back_as_it_was(storage: CloudStorage, data: tuple[Any, Any]) -> None:
    X, y = data
    uri = storage.save_dataset(X, y, "data/train.pkl")

    back_x, back_y = storage.load_dataset("data/train.pkl")
    np.testing.assert_array_equal(back_x, X)
    np.testing.assert_array_equal(back_y, y)
    assert back_x.dtype == X.dtype
    assert uri.endswith("/data/train.pkl")
    np.testing.assert_array_equal(storage.load_dataset(uri)[0], X)


def test_no_stored_byte_is_a_pickle_whatever_the_path_is_called(storage: CloudStorage) -> None:
    storage.save_dataset(np.arange(6.0).reshape(3, 2), np.arange(3), "data/train.pkl")
    store = storage.provider.folder_store("data")
    found = keys(storage)
    assert found
    for key in found:
        with pytest.raises((pickle.UnpicklingError, ValueError, EOFError, IndexError, KeyError)):
            pickle.loads(store.get(key).data)


def test_frames_and_a_missing_target(storage: CloudStorage) -> None:
    frame = pd.DataFrame({"age": [1, 2, None], "name": ["a", "b", None]})
    storage.save_dataset(frame, None, "data/unlabelled")
    X, y = storage.load_dataset("data/unlabelled")
    pd.testing.assert_frame_equal(X, frame)
    assert y is None


def test_a_second_save_replaces_the_first(storage: CloudStorage) -> None:
    storage.save_dataset(np.zeros(3), np.zeros(3), "data/d")
    storage.save_dataset(np.ones(4), np.ones(4), "data/d")
    assert storage.load_dataset("data/d")[0].tolist() == [1.0] * 4


def test_what_cannot_be_kept_exactly_is_refused_and_the_old_data_stays(storage: CloudStorage) -> None:
    storage.save_dataset(np.zeros(3), np.zeros(3), "data/d")
    with pytest.raises(Invalid):
        storage.save_dataset([[1, 2]], [0], "data/d")
    assert storage.load_dataset("data/d")[0].tolist() == [0.0] * 3


def test_no_dataset_there(storage: CloudStorage) -> None:
    with pytest.raises(NotFound, match="no dataset"):
        storage.load_dataset("data/absent")


def test_a_model_comes_back_with_its_metadata(storage: CloudStorage, model: Any, data: tuple[Any, Any]) -> None:
    uri = storage.save_model(model, "models/churn.pkl", {"metrics": {"accuracy": 0.9}, "author": "ada"})

    back = storage.load_model("models/churn.pkl")
    np.testing.assert_array_equal(back.predict(data[0]), model.predict(data[0]))
    assert storage.model_metadata(uri) == {"metrics": {"accuracy": 0.9}, "author": "ada"}


def test_saving_a_model_again_replaces_it(storage: CloudStorage, model: Any, other_model: Any) -> None:
    storage.save_model(model, "models/m")
    storage.save_model(other_model, "models/m")
    np.testing.assert_array_equal(storage.load_model("models/m").coef_, other_model.coef_)


def test_a_package_folder_that_was_uploaded_by_other_means_loads(
    storage: CloudStorage, model: Any, tmp_path: Path
) -> None:
    save_model(model, tmp_path / "package")
    for file in sorted((tmp_path / "package").iterdir()):
        storage.provider.upload_data(file, f"models/folder/{file.name}")
    np.testing.assert_array_equal(storage.load_model("models/folder").coef_, model.coef_)


def test_a_package_folder_is_stored_as_it_is(storage: CloudStorage, model: Any, tmp_path: Path) -> None:
    save_model(model, tmp_path / "package", metadata={"author": "ada"})
    storage.save_model(tmp_path / "package", "models/m")
    assert storage.model_metadata("models/m") == {"author": "ada"}
    with pytest.raises(Invalid, match="do not change"):
        storage.save_model(tmp_path / "package", "models/m", {"author": "eve"})


def test_no_model_there(storage: CloudStorage) -> None:
    with pytest.raises(NotFound, match="no model"):
        storage.load_model("models/absent")


class Unsafe:
    """Of a kind that no safe format holds."""


def test_a_model_without_a_safe_form_is_refused_and_nothing_is_stored(storage: CloudStorage) -> None:
    with pytest.raises((Unsupported, Invalid)):
        storage.save_model(Unsafe(), "data/model")
    assert keys(storage) == []


def test_metrics_that_are_no_numbers_are_refused(storage: CloudStorage, model: Any) -> None:
    with pytest.raises(Invalid, match="metrics") as caught:
        storage.save_model(model, "data/model", {"metrics": {"accuracy": "high"}})
    assert caught.value.field == "metadata.metrics"
    assert keys(storage) == []


@pytest.mark.parametrize("kind", ["bytes", "path", "text-path", "file"])
def test_upload_and_download(storage: CloudStorage, tmp_path: Path, kind: str) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"\x00rows\n")
    provider = storage.provider
    if kind == "file":
        with source.open("rb") as file:
            provider.upload_data(file, "data/raw")
    else:
        given: dict[str, bytes | Path | str] = {"bytes": b"\x00rows\n", "path": source, "text-path": str(source)}
        provider.upload_data(given[kind], "data/raw")
    assert provider.download_data("data/raw") == b"\x00rows\n"


def test_upload_refuses_what_is_ambiguous(storage: CloudStorage, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no file"):
        storage.provider.upload_data("some text", "data/raw")
    (tmp_path / "t").write_text("x")
    with (tmp_path / "t").open() as file, pytest.raises(Invalid, match="rb"):
        storage.provider.upload_data(file, "data/raw")
    assert keys(storage) == []


def test_the_first_dictionary_of_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert isinstance(CloudStorage().provider, LocalProvider)
    aws = CloudStorage(provider="aws", region="eu-central-1").provider
    assert isinstance(aws, AWSProvider)
    assert aws.region == "eu-central-1"
    azure = CloudStorage(provider="azure", subscription_id="sub", resource_group="group").provider
    assert isinstance(azure, AzureProvider)
    assert (azure.subscription_id, azure.resource_group) == ("sub", "group")
    assert str(azure.place("azure://my-storage/data/train.pkl")) == "az://my-storage/data/train.pkl"
    mine = LocalProvider(root=tmp_path)
    assert CloudStorage(mine).provider is mine


def test_a_relative_path_is_one_of_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    CloudStorage().save_dataset(np.zeros(2), np.zeros(2), "data/train")
    assert (tmp_path / "data" / "train" / "dataset.json").is_file()


@pytest.mark.parametrize(
    ("provider", "error", "words"),
    [
        ("gcp", Unsupported, "Google Cloud Storage"),
        ("kubernetes", Unsupported, "no object storage"),
        ("awz", Invalid, "did you mean aws"),
        (7, Invalid, "not a provider"),
    ],
)
def test_providers_that_are_not_there(provider: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        CloudStorage(provider=provider)


def test_settings_are_checked_by_name() -> None:
    with pytest.raises(Invalid, match="did you mean region"):
        CloudStorage(provider="aws", regoin="us-east-1")
    with pytest.raises(Invalid, match="configured already"):
        CloudStorage(LocalProvider(), root="/tmp")


@pytest.mark.parametrize(
    ("provider", "path", "words"),
    [
        ("aws", "data/train.pkl", "which bucket"),
        ("aws", "az://container/train", "not in the storage of provider 'aws'"),
        ("azure", "s3://my-bucket/train", "not in the storage of provider 'azure'"),
        ("local", "s3://my-bucket/train", "not in the storage of provider 'local'"),
        ("local", "data/../../etc/passwd", r"\.\."),
    ],
)
def test_a_path_of_another_place_is_refused_before_anything_is_sent(provider: str, path: str, words: str) -> None:
    storage = CloudStorage(provider=provider)
    with pytest.raises(Invalid, match=words):
        storage.save_dataset(np.zeros(2), np.zeros(2), path)
    with pytest.raises(Invalid, match=words):
        storage.load_model(path)


@pytest.mark.parametrize("path", ["/etc/passwd", "../outside", "a/../../outside"])
def test_a_root_cannot_be_left(tmp_path: Path, path: str) -> None:
    storage = CloudStorage(provider="local", root=str(tmp_path / "root"))
    with pytest.raises(Invalid):
        storage.provider.upload_data(b"x", path)
