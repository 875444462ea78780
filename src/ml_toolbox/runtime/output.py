"""The log of one attempt, and the pipes it is filled from.

One line of the file: seconds since the epoch with milliseconds, ``o``, ``e`` or ``s`` (out, err, system), the text.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable

_LONGEST = 64 * 1024
"""A line without an end is cut here, so that a program printing megabytes without a newline cannot fill our memory."""
TAIL_LINES = 200


class Log:
    """Appends lines; every line is written at once, so that a reader sees it within its own polling time."""

    def __init__(self, path: str) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self.tail: deque[str] = deque(maxlen=TAIL_LINES)

    def write(self, stream: str, lines: list[str]) -> None:
        if stream != "s":
            self.tail.extend(lines)
        at = time.time()
        text = "".join(f"{at:.3f} {stream} {line}\n" for line in lines)
        data = text.encode("utf-8", "surrogateescape")
        while data:
            data = data[os.write(self._descriptor, data) :]

    def say(self, text: str) -> None:
        """A message of our own; each of its lines is one of the log's."""
        self.write("s", text.splitlines())

    def close(self) -> None:
        os.fsync(self._descriptor)
        os.close(self._descriptor)


class Pipe:
    """Turns the bytes of one stream into whole lines. A carriage return overwrites, as on a terminal (progress bars)."""

    def __init__(self, descriptor: int, take: Callable[[list[str]], None]) -> None:
        self.descriptor = descriptor
        self._take = take
        self._rest = b""
        os.set_blocking(descriptor, False)

    def read(self) -> bool:
        """Take what is there. False at the end of the stream."""
        try:
            data = os.read(self.descriptor, 1 << 16)
        except BlockingIOError:
            return True
        if not data:
            self.close()
            return False
        *whole, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > _LONGEST:
            whole.append(self._rest)
            self._rest = b""
        if whole:
            self._take([_text(line) for line in whole])
        return True

    def drain(self, within_s: float) -> None:
        """Read to the end of the stream, or until its last holder takes too long to go."""
        deadline = time.monotonic() + within_s
        while self.descriptor >= 0 and time.monotonic() < deadline:
            if not self.read():
                return
            time.sleep(0.001)
        self.close()

    def close(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1
        if self._rest:
            self._take([_text(self._rest)])
            self._rest = b""


def _text(line: bytes) -> str:
    return line.rstrip(b"\r").rpartition(b"\r")[2].decode("utf-8", "surrogateescape")
