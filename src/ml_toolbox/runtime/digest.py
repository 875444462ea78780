"""Why a script failed, in one line: cause, the user's own file and line, evidence, next step.

Three sources, best first: the exception itself (seen in the script's own process), a traceback in the log (commands and
child processes), the exit status. All pure; a digest is a plain mapping with the fields of ``FailureDigest``.
"""

from __future__ import annotations

import os
import re
import signal
from types import TracebackType
from typing import NamedTuple

Digest = dict[str, str]

_FRAME = re.compile(r'^\s*File "(?P<file>[^"]+)", line (?P<line>\d+)')
_FINAL_LINE = re.compile(
    r"^(?P<type>[A-Za-z_][\w.]*(?:Error|Exception|Exit|Interrupt|Warning|Fault))(?:: (?P<text>.*))?$"
)
_NO_MODULE = re.compile(r"No module named '?(?P<name>[\w.]+)'?")
_QUOTED_PATH = re.compile(r"[Nn]o such file or directory: '(?P<path>[^']+)'")
_MEMORY = ("out of memory", "cannot allocate memory", "unable to allocate")

# Modules whose package on the index has another name.
_PACKAGES = {
    "sklearn": "scikit-learn",
    "cv2": "opencv-python",
    "PIL": "pillow",
    "yaml": "pyyaml",
    "bs4": "beautifulsoup4",
    "skimage": "scikit-image",
    "dateutil": "python-dateutil",
    "dotenv": "python-dotenv",
}
_MAX_CAUSE = 500


class Ending(NamedTuple):
    """How the script's process ended, and what the supervisor knows besides."""

    exit_code: int
    """Negative: killed by that signal."""
    tail: list[str]
    """The last lines of the log."""
    host_oom_kills: int = 0
    """How many processes the kernel killed for want of memory while the job ran."""
    peak_bytes: int = 0


def of_exception(error: BaseException, code: str) -> Digest:
    """Of an exception that ended the script; ``code`` is the folder of the user's sources."""
    where = _where(error, code)
    name = type(error).__name__
    text = _first_line(str(error))
    cause = f"{name}: {text}" if text else name
    if isinstance(error, ModuleNotFoundError) and error.name:
        return _missing_module(error.name, where)
    if isinstance(error, FileNotFoundError):
        return _missing_file(cause, str(error.filename or ""), where)
    if isinstance(error, MemoryError) or name == "OutOfMemoryError":
        return _out_of_memory(cause, where, "")
    return _digest("exception", cause, where=where, next_step=_look_at(where))


def of_ending(ending: Ending, code: str) -> Digest:
    """Of a process that ended badly without telling why."""
    last = next((line.strip() for line in reversed(ending.tail) if line.strip()), "")
    if ending.exit_code < 0:
        return _of_signal(-ending.exit_code, ending, last, code)
    found = of_traceback(ending.tail, code)
    status = f"exit status {ending.exit_code}"
    if found is not None:
        return {**found, "evidence": status}
    if ending.exit_code > 128 and ending.exit_code - 128 in _SIGNALS:  # a shell reports its child's signal so
        return _of_signal(ending.exit_code - 128, ending, last, code)
    return _digest(
        "exit-code",
        f"the script ended with {status}",
        evidence=_first_line(last),
        next_step="the log tells what it printed last",
    )


def of_traceback(lines: list[str], code: str) -> Digest | None:
    """Of the last Python traceback in a log, or ``None`` when there is none."""
    for index in range(len(lines) - 1, -1, -1):
        final = _FINAL_LINE.match(lines[index])
        if final is None:
            continue
        frames = [match for line in lines[:index] if (match := _FRAME.match(line))]
        if not frames:
            continue
        where = _place([(frame["file"], int(frame["line"])) for frame in frames], code)
        kind, text = final["type"].rpartition(".")[2], final["text"] or ""
        cause = _first_line(f"{kind}: {text}" if text else kind)
        if kind == "ModuleNotFoundError" and (named := _NO_MODULE.search(text)):
            return _missing_module(named["name"], where)
        if kind == "FileNotFoundError":
            path = _QUOTED_PATH.search(text)
            return _missing_file(cause, path["path"] if path else "", where)
        if kind in ("MemoryError", "OutOfMemoryError") or any(word in text.lower() for word in _MEMORY):
            return _out_of_memory(cause, where, "")
        return _digest("exception", cause, where=where, next_step=_look_at(where))
    return None


def of_timeout(limit_s: float) -> Digest:
    return _digest(
        "timeout",
        f"still running after its limit of {_duration(limit_s)}",
        evidence="limits.max_duration_s",
        next_step="raise limits.max_duration_s, or give the script less to do",
    )


def of_memory_limit(limit_bytes: int, used_bytes: int) -> Digest:
    return _out_of_memory(
        f"used {_gib(used_bytes)} of memory; its limit is {_gib(limit_bytes)}", "", "resources.memory_gib"
    )


def of_lost(what: str) -> Digest:
    return _digest(
        "lost",
        f"the supervisor of the job died without a result ({what})",
        evidence="every process of the job was ended",
        next_step="start it again; retry.lost: 1 in the spec does so by itself",
    )


def of_preemption() -> Digest:
    return _digest(
        "preempted",
        "the capacity was taken away (rehearsed)",
        evidence="mltoolbox jobs preempt",
        next_step="the next attempt resumes from the last checkpoint; retry.preempted says how many there are",
    )


def of_environment(cause: str) -> Digest:
    return _digest(
        "environment", cause, next_step="check environment.requirements; the log shows what the installer said"
    )


def _of_signal(number: int, ending: Ending, last: str, code: str) -> Digest:
    name = _SIGNALS.get(number, f"signal {number}")
    if number == signal.SIGKILL and ending.host_oom_kills:
        return _out_of_memory(
            "the kernel killed the script because the machine ran out of memory",
            "",
            f"{name}; it last used {_gib(ending.peak_bytes)}" if ending.peak_bytes else name,
        )
    frames = [(match["file"], int(match["line"])) for line in ending.tail if (match := _FRAME.match(line))]
    crashed = number in (signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGABRT)
    return _digest(
        "killed",
        f"the script crashed in native code ({name})" if crashed else f"the script was killed from outside ({name})",
        # faulthandler prints the innermost frame first, a traceback last; only crashes print the former.
        where=_place(list(reversed(frames)), code) if crashed and frames else "",
        evidence=_first_line(last),
        next_step=(
            "a compiled library failed; try other versions of the packages in use at that line"
            if crashed
            else "somebody or something on this machine ended it; start it again"
        ),
    )


def _missing_module(module: str, where: str) -> Digest:
    top = module.partition(".")[0]
    return _digest(
        "missing-module",
        f"ModuleNotFoundError: No module named {module!r}",
        where=where,
        next_step=f"add {_PACKAGES.get(top, top)} to environment.requirements, or install it",
    )


def _missing_file(cause: str, path: str, where: str) -> Digest:
    if path and not os.path.isabs(path):
        step = f"{path} is looked for beside the script: put it into the source folder, or give it with --input"
    else:
        step = "give the file to the job with --input NAME=PATH and read it from that channel"
    return _digest("missing-file", cause, where=where, next_step=step)


def _out_of_memory(cause: str, where: str, evidence: str) -> Digest:
    gpu = "cuda" in cause.lower()
    step = "use a smaller batch" if gpu else "raise resources.memory_gib, or load less at a time"
    return _digest("out-of-memory", cause, where=where, evidence=evidence, next_step=step)


def _digest(kind: str, cause: str, *, where: str = "", evidence: str = "", next_step: str = "") -> Digest:
    return {"kind": kind, "cause": _first_line(cause), "where": where, "evidence": evidence, "next_step": next_step}


def _where(error: BaseException, code: str) -> str:
    if isinstance(error, SyntaxError) and error.filename and _inside(error.filename, code):
        return f"{os.path.relpath(error.filename, code)}:{error.lineno}"
    frames: list[tuple[str, int]] = []
    traceback: TracebackType | None = error.__traceback__
    while traceback is not None:
        frames.append((traceback.tb_frame.f_code.co_filename, traceback.tb_lineno))
        traceback = traceback.tb_next
    return _place(frames, code)


def _place(frames: list[tuple[str, int]], code: str) -> str:
    """The innermost frame in the user's own sources: that is the line they can change."""
    for file, line in reversed(frames):
        if _inside(file, code):
            return f"{os.path.relpath(os.path.join(code, file), code)}:{line}"
    return ""


def _inside(file: str, code: str) -> bool:
    path = os.path.realpath(os.path.join(code, file))
    if file.startswith("<") or f"{os.sep}site-packages{os.sep}" in path:
        return False
    return path.startswith(os.path.realpath(code) + os.sep)


def _look_at(where: str) -> str:
    return f"see {where}; the log holds the whole traceback" if where else "the log holds the whole traceback"


def _first_line(text: str) -> str:
    line = next((part.strip() for part in text.splitlines() if part.strip()), "")
    return line if len(line) <= _MAX_CAUSE else line[: _MAX_CAUSE - 1] + "…"


def _gib(size: int) -> str:
    return f"{size / 2**30:.2f} GiB"


def _duration(seconds: float) -> str:
    return f"{seconds:g} s" if seconds < 120 else f"{seconds / 60:g} min" if seconds < 7200 else f"{seconds / 3600:g} h"


_SIGNALS: dict[int, str] = {int(number): number.name for number in signal.Signals}
