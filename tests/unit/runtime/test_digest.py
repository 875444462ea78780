"""One line that says why: from the exception, from the log, from the exit status."""

from __future__ import annotations

import signal
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

from ml_toolbox.runtime import digest
from ml_toolbox.runtime.digest import Ending


def raised(code: Path, source: str, *, module: str = "") -> BaseException:
    """The exception that a script with this source (and a module ``part``) raises."""
    (code / "part.py").write_text(module)
    path = code / "train.py"
    path.write_text(source)
    scope = {"__name__": "__main__", "part": {}}
    exec(compile(module or "pass", str(code / "part.py"), "exec"), scope)
    with pytest.raises(BaseException) as caught:
        exec(compile(source, str(path), "exec"), scope)
    return caught.value


@pytest.mark.parametrize(
    ("source", "kind", "cause", "step"),
    [
        ("\n\n1/0", "exception", "ZeroDivisionError: division by zero", "train.py:3"),
        ("import nosuchmodule.part", "missing-module", "No module named 'nosuchmodule'", "add nosuchmodule to"),
        ("raise ModuleNotFoundError('No', name='sklearn.svm')", "missing-module", "sklearn.svm", "add scikit-learn to"),
        ("open('data.csv')", "missing-file", "No such file or directory: 'data.csv'", "data.csv is looked for beside"),
        ("open('/no/such.csv')", "missing-file", "/no/such.csv", "--input NAME=PATH"),
        ("raise MemoryError('too much')", "out-of-memory", "MemoryError: too much", "memory_gib"),
        ("class OutOfMemoryError(RuntimeError): pass\nraise OutOfMemoryError('CUDA')", "out-of-memory", "CUDA", "batch"),
        ("raise ValueError('first\\nsecond')", "exception", "ValueError: first", "train.py:1"),
        ("raise ValueError", "exception", "ValueError", "train.py:1"),
        ("raise ValueError('x' * 5000)", "exception", "…", "train.py:1"),
    ],
)  # fmt: skip
def test_of_an_exception(tmp_path: Path, source: str, kind: str, cause: str, step: str) -> None:
    found = digest.of_exception(raised(tmp_path, source), str(tmp_path))
    assert found["kind"] == kind
    assert cause in found["cause"]
    assert "\n" not in found["cause"]
    assert len(found["cause"]) <= 500
    assert step in found["next_step"]


def test_the_line_is_the_innermost_of_the_users_own(tmp_path: Path) -> None:
    error = raised(
        tmp_path, "import json\nload('{')\n", module="import json\n\ndef load(x):\n    return json.loads(x)\n"
    )
    assert digest.of_exception(error, str(tmp_path))["where"] == "part.py:4"


def test_a_syntax_error_is_at_its_own_line(tmp_path: Path) -> None:
    error = raised(tmp_path, "x = 1\nif x\n")
    assert digest.of_exception(error, str(tmp_path))["where"] == "train.py:2"


def test_code_that_is_not_the_users_has_no_line(tmp_path: Path) -> None:
    def outside() -> None:
        raise ValueError("x")

    with pytest.raises(ValueError) as caught:
        outside()
    assert digest.of_exception(caught.value, str(tmp_path))["where"] == ""


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        ("1/0", "exception"),
        ("import nosuchmodule", "missing-module"),
        ("open('x.csv')", "missing-file"),
        ("raise MemoryError", "out-of-memory"),
    ],
)
def test_a_traceback_in_the_log_tells_the_same_as_the_exception(tmp_path: Path, source: str, kind: str) -> None:
    error = raised(tmp_path, source)
    log = ["starting", *"".join(traceback.format_exception(error)).splitlines()]
    of_log = digest.of_ending(Ending(1, log), str(tmp_path))
    of_error = digest.of_exception(error, str(tmp_path))
    assert of_log["kind"] == of_error["kind"] == kind
    assert (of_log["where"], of_log["next_step"]) == (of_error["where"], of_error["next_step"])
    assert of_log["cause"] == of_error["cause"]


@pytest.mark.parametrize(
    ("ending", "kind", "told"),
    [
        (Ending(3, ["almost done", ""]), "exit-code", "exit status 3"),
        (Ending(-signal.SIGKILL, []), "killed", "killed from outside (SIGKILL)"),
        (Ending(-signal.SIGKILL, [], host_oom_kills=1, peak_bytes=2**31), "out-of-memory", "ran out of memory"),
        (Ending(-signal.SIGSEGV, []), "killed", "crashed in native code (SIGSEGV)"),
        (Ending(128 + signal.SIGTERM, []), "killed", "SIGTERM"),
        (Ending(200, []), "exit-code", "exit status 200"),
    ],
)
def test_of_an_exit_status(ending: Ending, kind: str, told: str) -> None:
    found = digest.of_ending(ending, "/nowhere")
    assert found["kind"] == kind
    assert told in found["cause"]
    assert found["next_step"]


def test_a_native_crash_names_the_python_line(tmp_path: Path) -> None:
    tail = ["Fatal Python error: Segmentation fault", "", "Current thread (most recent call first):"]
    tail += [f'  File "{tmp_path}/train.py", line 7 in fit', f'  File "{tmp_path}/train.py", line 9 in <module>']
    assert digest.of_ending(Ending(-signal.SIGSEGV, tail), str(tmp_path))["where"] == "train.py:7"


@pytest.mark.parametrize(
    "made",
    [
        lambda: digest.of_timeout(3600),
        lambda: digest.of_lost("signal 9"),
        lambda: digest.of_memory_limit(2**30, 2**31),
        lambda: digest.of_environment("no matching distribution"),
    ],
)
def test_every_digest_says_what_to_do_next(made: Callable[[], dict[str, str]]) -> None:
    found = made()
    assert set(found) == {"kind", "cause", "where", "evidence", "next_step"}
    assert found["cause"]
    assert found["next_step"]
