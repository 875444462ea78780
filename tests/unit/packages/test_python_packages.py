"""Classes of the user's own: source and state, loaded with trust only."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.cluster import Birch

from ml_toolbox.base.errors import Invalid, Untrusted
from ml_toolbox.packages import Trust, open_package, save_model
from tests.unit.packages.own_model import Odd, Threshold

ROWS = np.arange(10.0).reshape(5, 2)
TRUST = Trust(explicit=True)


@pytest.mark.parametrize(
    ("kind", "code"), [(Threshold, {"code/own_model.py"}), (Odd, {"code/own_model.py", "state.pkl"})]
)
def test_own_class_comes_back_with_trust_only(kind: type[Threshold], code: set[str], tmp_path: Path) -> None:
    model = kind(30.0)
    manifest = save_model(model, tmp_path / "p", sample_input=ROWS, flavour="python")
    assert {entry.path for entry in manifest.files if entry.executes_code} == code
    stranger = open_package(tmp_path / "p")
    stranger.verify()
    with pytest.raises(Untrusted, match="would run code") as refusal:
        stranger.load()
    assert "Trust(explicit=True)" in refusal.value.hint
    with pytest.raises(Untrusted):
        stranger.predictor()
    package = open_package(tmp_path / "p", trust=TRUST)
    assert np.array_equal(package.predictor()(ROWS)["prediction"], model.predict(ROWS))
    loaded = package.load()
    assert loaded.notes == model.notes
    assert isinstance(loaded.limit, float)


def test_own_class_needs_the_explicit_word(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="not a model of a known framework") as refusal:
        save_model(Threshold(1.0), tmp_path / "p", sample_input=ROWS)
    assert "flavour='python'" in refusal.value.hint


def test_library_object_without_a_safe_form_is_pickled_when_asked(tmp_path: Path) -> None:
    model = Birch(n_clusters=None).fit(ROWS)
    manifest = save_model(model, tmp_path / "p", sample_input=ROWS, flavour="python")
    assert [entry.path for entry in manifest.files if entry.executes_code] == ["state.pkl"]
    with pytest.raises(Untrusted):
        open_package(tmp_path / "p").load()
    loaded = open_package(tmp_path / "p", trust=TRUST).load()
    assert np.array_equal(loaded.predict(ROWS), model.predict(ROWS))


def test_class_of_a_script_brings_its_definitions_and_not_its_statements(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(
        "import numpy as np\n"
        "from pathlib import Path\n"
        "from ml_toolbox.packages import save_model\n"
        "OFFSET = 4\n"
        "class Model:\n"
        "    def predict(self, rows):\n"
        "        return np.asarray(rows)[:, 0] + OFFSET\n"
        f"save_model(Model(), {str(tmp_path / 'p')!r}, sample_input=np.ones((2, 2)), flavour='python')\n"
        f"with open({str(tmp_path / 'runs')!r}, 'a') as file: file.write('x')\n"
    )
    subprocess.run([sys.executable, str(script)], check=True)
    predictor = open_package(tmp_path / "p", trust=TRUST).predictor()
    assert predictor(ROWS)["prediction"].tolist() == [4.0, 6.0, 8.0, 10.0, 12.0]
    assert (tmp_path / "runs").read_text() == "x"
