"""Bytes become lines, prints become metrics, locks become places."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml_toolbox.runtime import mlflow_files
from ml_toolbox.runtime.job import Places, read_json, write_json
from ml_toolbox.runtime.output import Pipe
from ml_toolbox.runtime.places import Line
from ml_toolbox.runtime.progress import Progress


def lines_of(chunks: list[bytes]) -> list[str]:
    reader, writer = os.pipe()
    seen: list[str] = []
    pipe = Pipe(reader, seen.extend)
    for chunk in chunks:
        os.write(writer, chunk)
        assert pipe.read()
    os.close(writer)
    pipe.drain(within_s=5)
    return seen


@given(st.lists(st.binary(min_size=1, max_size=20), max_size=8))
def test_lines_do_not_depend_on_how_the_bytes_were_cut(chunks: list[bytes]) -> None:
    whole = b"".join(chunks)
    assert lines_of(chunks) == (lines_of([whole]) if whole else [])


@pytest.mark.parametrize(
    ("data", "lines"),
    [
        (b"a\nb", ["a", "b"]),
        (b"10%\r50%\r100%\ndone\n", ["100%", "done"]),
        (b"windows\r\nnext\r\n", ["windows", "next"]),
        ("é ✓\n".encode(), ["é ✓"]),
        (b"\n\n", ["", ""]),
    ],
)
def test_lines(data: bytes, lines: list[str]) -> None:
    assert lines_of([data]) == lines


def test_bytes_that_are_no_text_are_kept() -> None:
    assert lines_of([b"\xff\xfe\n"])[0].encode("utf-8", "surrogateescape") == b"\xff\xfe"


def test_a_line_without_end_is_cut() -> None:
    assert [len(line) for line in lines_of([b"x" * 60000, b"x" * 10000, b"y\n"])] == [70000, 1]


def test_printed_metrics_are_found_by_their_expressions() -> None:
    progress = Progress({"loss": r"loss=([\d.e+-]+)", "epoch": r"epoch (\d+)"})
    assert progress.printed("epoch 3: loss=0.25") == {"loss": 0.25, "epoch": 3.0}
    assert progress.printed("loss=nonsense") == {}
    assert progress.printed("loss=1e-3") == {"loss": 0.001}
    assert (progress.metrics["loss"], progress.epoch) == (0.001, 3)


def test_reports_give_epoch_share_and_metrics() -> None:
    progress = Progress({})
    progress.report('{"at": 1, "epoch": 2, "epochs": 8, "metrics": {"loss": 0.5, "bad": NaN}}')
    assert (progress.epoch, progress.share, progress.metrics) == (2, 0.25, {"loss": 0.5})
    progress.report('{"step": 30, "steps": 40, "metrics": {"loss": 0.4}}')
    assert (progress.epoch, progress.share, progress.metrics) == (2, 0.75, {"loss": 0.4})
    for garbage in ("", "no json", "[1]", '{"metrics": null}', '{"epoch": "x", "epochs": 0}'):
        progress.report(garbage)
    assert progress.metrics == {"loss": 0.4}


def test_mlflow_files_give_the_newest_value(tmp_path: Path) -> None:
    for run, text in {"r1": "1000 0.5 1\n2000 0.6 2\n", "r2": "3000 0.7 0\n4000 na"}.items():
        folder = tmp_path / "0" / run / "metrics"
        folder.mkdir(parents=True)
        (folder / "acc").write_text(text)
    (tmp_path / "0" / "r1" / "metrics" / "val").mkdir()
    (tmp_path / "0" / "r1" / "metrics" / "val" / "f1").write_text("1000 0.9 0\n")
    (tmp_path / "0" / "r1" / "params").mkdir()
    (tmp_path / "0" / "r1" / "params" / "acc").write_text("9")
    assert mlflow_files.latest(str(tmp_path)) == {"acc": 0.7, "val/f1": 0.9}
    assert mlflow_files.latest(str(tmp_path / "nosuch")) == {}


def test_places_are_handed_out_first_come_first_served(tmp_path: Path) -> None:
    places = Places(str(tmp_path), 2)
    first = Line(places, 2, "a").try_take()
    assert first is not None
    assert first.numbers == [0, 1]
    second, third = Line(places, 1, "b"), Line(places, 1, "c")
    assert second.try_take() is None
    first.release()
    assert third.try_take() is None, "an earlier one waits"
    held = second.try_take()
    assert held is not None
    assert third.try_take() is not None


def test_all_or_nothing(tmp_path: Path) -> None:
    places = Places(str(tmp_path), 2)
    one = Line(places, 1, "a").try_take()
    assert one is not None
    assert Line(places, 2, "b").try_take() is None
    assert one.numbers == [0]
    one.release()


def test_the_dead_neither_hold_nor_wait(tmp_path: Path) -> None:
    program = (
        "import os, sys\nfrom ml_toolbox.runtime.job import Places\nfrom ml_toolbox.runtime.places import Line\n"
        "held = Line(Places(sys.argv[1], 1), 1, 'a').try_take()\nwaiting = Line(Places(sys.argv[1], 1), 1, 'b')\n"
        "assert held and waiting.try_take() is None\nos.kill(os.getpid(), 9)\n"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=False, timeout=30)
    assert Line(Places(str(tmp_path), 1), 1, "c").try_take() is not None


def test_json_files_are_replaced_whole(tmp_path: Path) -> None:
    path = str(tmp_path / "x.json")
    assert read_json(path) is None
    for value in ({"a": 1}, [None, 0.1]):
        write_json(path, value, durable=True)
        assert read_json(path) == value
    assert os.listdir(tmp_path) == ["x.json"]
