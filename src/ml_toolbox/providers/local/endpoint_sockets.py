"""One port shared by several servers: a listening socket per server, held by the supervisor, and the kernel choosing among
the healthy ones.

With one socket inherited by all, whoever wakes first takes a whole burst of connections (measured: 64 of 64 to one of two
servers). With a socket each (``SO_REUSEPORT``), the kernel spreads connections, but would also give them to a server that
loads, died or is leaving. A classic BPF program attached to the group (socket(7), ``SO_ATTACH_REUSEPORT_CBPF``; needs no
privilege) picks at random among the sockets of ready servers only. And as the supervisor keeps every socket open, those
that were already waiting for a server that died are served by its successor.
"""

from __future__ import annotations

import ctypes
import socket
import struct
from collections.abc import Sequence
from typing import Final

_ATTACH: Final = 51
"""``SO_ATTACH_REUSEPORT_CBPF`` on every Linux architecture but parisc and sparc; not in Python's ``socket``."""
_BACKLOG: Final = 4096
# linux/bpf_common.h and linux/filter.h: load a word of packet data or, at these negative offsets, of kernel data.
_LOAD, _MODULO, _JUMP_EQUAL, _RETURN = 0x20, 0x94, 0x15, 0x06
_RANDOM: Final = 0xFFFFF000 + 56


class SharedPort:
    """The sockets of one port; number ``n`` belongs to server slot ``n``."""

    def __init__(self, port: int | None) -> None:
        """Bind ``port``, or any free one. ``OSError`` when somebody else has it."""
        # Another process of this user that shares its port would let us join its group: only a bind that does not
        # share shows that nobody is there.
        with _bound(port or 0, share=False) as alone:
            self.port: int = alone.getsockname()[1]
        self._sockets = [_listening(self.port)]
        self._chosen: tuple[int, ...] | None = None

    def socket_of(self, slot: int) -> socket.socket:
        """The socket of a slot, made when it is the next one."""
        while len(self._sockets) <= slot:
            self._sockets.append(_listening(self.port))
        return self._sockets[slot]

    def keep(self, slots: int) -> None:
        """Close the sockets from number ``slots`` on: their servers are gone. The first one stays: it holds the port."""
        while len(self._sockets) > max(1, slots):
            self._sockets.pop().close()

    def choose(self, ready: Sequence[int]) -> bool:
        """Send new connections to these slots only; to all when none is ready, where they wait. ``False`` where the system
        cannot do that and spreads over all."""
        chosen = tuple(slot for slot in ready if slot < len(self._sockets)) or tuple(range(len(self._sockets)))
        if chosen != self._chosen:
            try:
                self._attach(chosen)
            except OSError:
                return False
            self._chosen = chosen
        return True

    def _attach(self, slots: tuple[int, ...]) -> None:
        """A random number modulo the count of slots, then a table from that number to the slot."""
        program = [(_LOAD, 0, 0, _RANDOM), (_MODULO, 0, 0, len(slots))]
        for number, slot in enumerate(slots):
            program += [(_JUMP_EQUAL, 0, 1, number), (_RETURN, 0, 0, slot)]
        program.append((_RETURN, 0, 0, slots[0]))
        code = b"".join(struct.pack("HBBI", *instruction) for instruction in program)
        held = ctypes.create_string_buffer(code, len(code))
        pointer = struct.pack("@HP", len(program), ctypes.addressof(held))
        self._sockets[0].setsockopt(socket.SOL_SOCKET, _ATTACH, pointer)

    def close(self) -> None:
        for sock in self._sockets:
            sock.close()


def _bound(port: int, *, share: bool) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if share:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind(("127.0.0.1", port))
    except OSError:
        sock.close()
        raise
    return sock


def _listening(port: int) -> socket.socket:
    sock = _bound(port, share=True)
    sock.listen(_BACKLOG)
    return sock
