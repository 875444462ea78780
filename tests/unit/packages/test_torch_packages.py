"""PyTorch: sealed programs and safetensors, no pickle, no class needed to load."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ml_toolbox.base.errors import Invalid, Unsupported
from ml_toolbox.packages import open_package, save_model, screen
from tests.unit.packages.comparing import close

torch = pytest.importorskip("torch")
nn = torch.nn


class Mlp(nn.Module):  # type: ignore[name-defined,misc]
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(30, 16)
        self.norm = nn.BatchNorm1d(16)
        self.out = nn.Linear(16, 2)

    def forward(self, rows: Any) -> Any:
        return torch.softmax(self.out(torch.relu(self.norm(self.inner(rows)))), dim=-1)


class Tied(nn.Module):  # type: ignore[name-defined,misc]
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, 8)
        self.out = nn.Linear(8, 50)
        self.out.weight = self.embedding.weight

    def forward(self, tokens: Any) -> Any:
        hidden = self.embedding(tokens).mean(1)
        return self.out(hidden), hidden


class Branches(nn.Module):  # type: ignore[name-defined,misc]
    def forward(self, rows: Any) -> Any:
        return rows if rows.sum() > 0 else -rows


def test_program_is_served_for_any_number_of_rows(tmp_path: Path) -> None:
    model = Mlp().eval()
    rows = torch.randn(20, 30)
    manifest = save_model(model, tmp_path / "p", sample_input=rows)
    assert [engine.kind for engine in manifest.engines] == ["onnxruntime", "torch-export"]
    package = open_package(tmp_path / "p")
    package.verify()
    for count in (1, 3, 20):
        expected = model(rows[:count]).detach().numpy()
        close(package.predictor()(rows[:count].numpy())["prediction"], expected, atol=1e-6)
        close(package.load()(rows[:count]).detach().numpy(), expected, atol=1e-6)
    weights = package.load().state_dict()
    assert {key: tuple(value.shape) for key, value in weights.items()} == {
        key: tuple(value.shape) for key, value in model.state_dict().items()
    }
    assert screen(tmp_path / "p" / "weights.safetensors") == "safetensors"
    assert screen(tmp_path / "p" / "program.pt2") == "torch-program"


def test_shared_weights_and_several_outputs(tmp_path: Path) -> None:
    model = Tied().eval()
    tokens = torch.randint(0, 50, (6, 7))
    manifest = save_model(model, tmp_path / "p", sample_input=tokens, convert=False)
    assert manifest.signature is not None
    assert [(o.name, o.shape) for o in manifest.signature.outputs] == [("prediction", (50,)), ("output_1", (8,))]
    assert manifest.signature.inputs[0].dtype == "int64"
    answers = open_package(tmp_path / "p").predictor()(tokens.numpy())
    for answer, expected in zip(answers.values(), model(tokens), strict=True):
        close(answer, expected.detach().numpy(), atol=1e-6)


def test_the_class_is_not_needed_to_load(tmp_path: Path) -> None:
    save_model(Mlp().eval(), tmp_path / "p", sample_input=torch.ones(4, 30), convert=False)
    code = (
        "import numpy as np\nfrom ml_toolbox.packages import open_package\n"
        f"print(open_package({str(tmp_path / 'p')!r}).predictor()(np.ones((2, 30), 'float32'))['prediction'].shape)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "(2, 2)"


def test_nothing_pickled_is_stored(tmp_path: Path) -> None:
    save_model(Mlp().eval(), tmp_path / "p", sample_input=torch.ones(4, 30), convert=False)
    with zipfile.ZipFile(tmp_path / "p" / "program.pt2") as archive:
        assert archive.read("program/data/sample_inputs/model.pt") == b""
        assert not any(b"torch._utils" in archive.read(name) for name in archive.namelist())


def test_models_that_cannot_be_traced_or_proven_are_refused(tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match=r"torch\.export cannot trace"):
        save_model(Branches(), tmp_path / "a", sample_input=torch.ones(3, 2))
    with pytest.raises(Invalid, match="needs a sample input"):
        save_model(Tied(), tmp_path / "b")
    with pytest.raises(Invalid, match="something else than tensors"):
        save_model(nn.LSTM(4, 5, batch_first=True), tmp_path / "c", sample_input=torch.ones(3, 6, 4))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "damage",
    [
        lambda p: (p / "weights.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0{}"),
        lambda p: (p / "weights.safetensors").write_bytes(b"\xff" * 16),
        lambda p: (p / "program.pt2").write_bytes((p / "program.pt2").read_bytes()[:-40]),
    ],
)
def test_damaged_programs_are_refused(
    damage: Callable[[Path], None], tmp_path: Path, edit_manifest: Callable[..., None]
) -> None:
    save_model(Mlp().eval(), tmp_path / "p", sample_input=torch.ones(4, 30), convert=False)
    damage(tmp_path / "p")
    edit_manifest(tmp_path / "p", lambda m: None)
    with pytest.raises(Invalid, match=r"weight|safetensors|program"):
        open_package(tmp_path / "p").load()
