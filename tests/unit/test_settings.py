from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest

from ml_toolbox.app import SETTINGS_TEMPLATE, Toolbox, load_settings
from ml_toolbox.base.errors import Invalid, Unsupported


def test_without_a_file_everything_is_below_home(tmp_path: Path) -> None:
    settings = load_settings(tmp_path)
    assert settings.registry == str(tmp_path / "registry")
    assert settings.data == str(tmp_path / "data")


def test_the_environment_comes_before_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config.toml").write_text('registry = "s3://team/models"')
    assert load_settings(tmp_path).registry == "s3://team/models"
    monkeypatch.setenv("MLTOOLBOX_REGISTRY", "memory://elsewhere")
    assert load_settings(tmp_path).registry == "memory://elsewhere"


def test_the_template_says_only_defaults(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(SETTINGS_TEMPLATE.format(home=tmp_path))
    assert load_settings(tmp_path).registry == str(tmp_path / "registry")


@pytest.mark.parametrize(
    ("text", "message"),
    [("registri = 'x'", "did you mean registry"), ("registry = 3", "must be a str"), ("registry = ", "TOML")],
)
def test_a_wrong_setting_is_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "config.toml").write_text(text)
    with pytest.raises(Invalid, match=message):
        load_settings(tmp_path)


def _install(home: Path) -> str:
    return Toolbox(home).install


def test_racing_processes_agree_on_the_installation_id(tmp_path: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        ids = set(pool.map(_install, [tmp_path] * 8))
    assert len(ids) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["install-id"]


def test_built_in_and_outside_providers_enter_by_the_same_door() -> None:
    assert "local" in Toolbox().providers


def test_an_unknown_backend_suggests_the_nearest() -> None:
    with pytest.raises(Invalid, match="did you mean local"):
        Toolbox().job_backend("locall")


class _BrokenPoint:
    name = "acme"

    def load(self) -> object:
        raise ImportError("no module named acme_sdk")


def test_one_broken_provider_takes_no_other_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib import metadata

    real = list(metadata.entry_points(group="ml_toolbox.providers"))
    monkeypatch.setattr(metadata, "entry_points", lambda group: [_BrokenPoint(), *real])
    toolbox = Toolbox(tmp_path)
    assert "local" in toolbox.backends()
    assert "acme_sdk" in toolbox.installed.broken["acme"]
    with pytest.raises(Unsupported, match="acme_sdk"):
        toolbox.job_backend("acme-batch")
