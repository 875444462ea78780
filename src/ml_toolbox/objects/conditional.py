"""Conditional writes whose outcome is the truth, over a network that loses answers.

Each write carries a nonce in the object's metadata and is sent by a client that does not retry by itself. Then:

- a definite answer to the only request is believed: stored, or a conflict;
- a conflict on create is checked by one read, because S3 answers 409 while another request is under way and obstore
  reports that as "already exists" although nothing may be there: absent means try again;
- no answer, or a failure of the server, leaves the outcome open: the object is read back, and our nonce in it means that
  the write happened. Another one's nonce means that it was not ours, or was and has been overwritten since: nobody can
  tell, so that is ``Unavailable``, never ``Conflict``.

A server may also ignore conditions without a word, so an endpoint that is not the cloud's own is put to the test before
the first conditional write.
"""

from __future__ import annotations

import logging
import random
import threading
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from ml_toolbox.base.errors import Conflict, NotFound, ToolboxError, Unavailable, Unsupported
from ml_toolbox.base.ids import nonce
from ml_toolbox.base.uri import RESERVED_PREFIX
from ml_toolbox.objects.faults import translate
from ml_toolbox.ports.objects import CreateOnly, IfMatch, Version

if TYPE_CHECKING:
    from ml_toolbox.objects.remote import Clients

# Letters only: Azure accepts the names of C# identifiers, S3 those of HTTP headers.
NONCE: Final = "mltwrite"
_FIRST_PAUSE_S: Final = 0.05
_LONGEST_PAUSE_S: Final = 5.0
_log = logging.getLogger(__name__)


def version_of(e_tag: str | None) -> Version:
    """The version behind a tag. Azure writes it without quotes in listings and with quotes elsewhere: here always with."""
    if e_tag is None or e_tag.endswith('"'):
        return Version(e_tag)
    return Version(f'"{e_tag}"')


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """Whether to test the server, and what to do if it fails."""

    needed: bool
    on_unconditional: Literal["refuse", "single-writer"] = "refuse"


class ConditionalWrites:
    """``CreateOnly`` and ``IfMatch`` for one store."""

    def __init__(self, uri: str, base: str, ready: Callable[[], Clients], *, probe: Probe, retries: int) -> None:
        self._uri = uri
        self._base = base
        self._ready = ready
        self._probe = probe
        self._retries = retries
        self._lock = threading.Lock()
        self._honoured: bool | None = None if probe.needed else True

    def put(self, key: str, data: bytes, mode: CreateOnly | IfMatch) -> Version:
        clients = self._ready()
        if self._honoured is None:
            with self._lock:
                if self._honoured is None:
                    self._honoured = self._test(clients)
        if self._honoured:
            return self._write(clients, key, data, mode)
        if self._probe.on_unconditional == "refuse":
            raise Unsupported(
                f"the server of {self._uri} ignores conditional writes, so concurrent writers would overwrite each other",
                hint="use another server, or StoreSettings(on_unconditional='single-writer') if only one process writes",
                resource=self._uri,
            )
        return self._write_alone(clients, key, data, mode)

    def _write(self, clients: Clients, key: str, data: bytes, mode: CreateOnly | IfMatch) -> Version:
        mark = nonce()
        in_doubt = False
        for attempt in range(self._retries + 1):
            if attempt:
                time.sleep(random.uniform(0, min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2**attempt)))  # noqa: S311
            try:
                return self._send(clients.once, key, data, mode, mark)
            except Conflict as conflict:
                found, written = self._look(clients.retrying, key)
                if written == mark and found is not None:
                    return found
                if self._as_expected(found, mode):
                    continue  # a 409 that stored nothing, or the object has changed back this moment
                if in_doubt:
                    raise self._unknown(key) from conflict
                raise
            except Unavailable as fault:
                in_doubt = True
                last: ToolboxError = fault
                found, written = self._look(clients.retrying, key)
                if written == mark and found is not None:
                    return found
                if not self._as_expected(found, mode):
                    raise self._unknown(key) from fault
        if in_doubt:
            raise last
        raise Unavailable(f"{key} in {self._uri}: conflicting requests, {self._retries + 1} times", resource=self._uri)

    def _send(self, store: Any, key: str, data: bytes, mode: CreateOnly | IfMatch, mark: str) -> Version:
        import obstore

        condition: Any = "create"
        if isinstance(mode, IfMatch):
            if mode.version.e_tag is None:
                raise Conflict(f"{key}: a version without a tag matches nothing in {self._uri}", resource=key)
            condition = {"e_tag": mode.version.e_tag}  # without None: obstore takes only text here
        try:
            result = obstore.put(store, key, data, mode=condition, attributes={NONCE: mark})
        except Exception as error:  # every class of the library, by the table
            raise translate(error, key, self._uri) from error
        if result["e_tag"]:
            return version_of(result["e_tag"])
        found, written = self._look(store, key)
        if found is None or written != mark:  # stored, then changed before it could be read back
            raise self._unknown(key)
        return found

    def _look(self, store: Any, key: str) -> tuple[Version | None, str]:
        """Version and nonce of what is there now; ``(None, "")`` when nothing is."""
        import obstore

        try:
            result = obstore.get(store, key, options={"head": True})
            return version_of(result.meta["e_tag"]), result.attributes.get(NONCE, "")
        except Exception as error:  # every class of the library, by the table
            ours = translate(error, key, self._uri)
            if isinstance(ours, NotFound):
                return None, ""
            raise ours from error

    @staticmethod
    def _as_expected(found: Version | None, mode: CreateOnly | IfMatch) -> bool:
        return found is None if isinstance(mode, CreateOnly) else found == mode.version

    def _unknown(self, key: str) -> Unavailable:
        return Unavailable(
            f"{key} in {self._uri}: no answer arrived, and the object has changed since; whether this write took part"
            " cannot be known",
            hint="read the object again and decide from what it says",
            resource=f"{self._uri}/{key}",
        )

    def _test(self, clients: Clients) -> bool:
        """Create twice and swap with a stale tag: does the server refuse what it must? Leaves nothing behind."""
        import obstore

        key = f"{self._base}{RESERVED_PREFIX}probe-{nonce()}"
        store = clients.retrying
        try:
            first = version_of(obstore.put(store, key, b"1", mode="overwrite")["e_tag"] or "none")
            obstore.put(store, key, b"2", mode="overwrite")
            try:
                refused = self._refuses(clients.once, key, CreateOnly()) and self._refuses(
                    clients.once, key, IfMatch(first)
                )
            finally:
                obstore.delete(store, key)
        except ToolboxError:
            raise
        except Exception as error:  # every class of the library, by the table
            raise translate(error, key, self._uri) from error
        if not refused and self._probe.on_unconditional == "single-writer":
            said = (
                f"the server of {self._uri} ignores conditional writes: they are only safe while this process is the only"
                " writer (StoreSettings.on_unconditional='single-writer')"
            )
            _log.warning(said)
            warnings.warn(said, RuntimeWarning, stacklevel=5)
        return refused

    def _refuses(self, store: Any, key: str, mode: CreateOnly | IfMatch) -> bool:
        try:
            self._send(store, key, b"3", mode, nonce())
        except Conflict:
            return True
        return False

    def _write_alone(self, clients: Clients, key: str, data: bytes, mode: CreateOnly | IfMatch) -> Version:
        """Compare here, under a lock of this process. Other processes are not excluded; the warning said so."""
        import obstore

        with self._lock:
            found, _ = self._look(clients.retrying, key)
            if not self._as_expected(found, mode):
                raise Conflict(f"{key} is there already, or in another version, in {self._uri}", resource=key)
            try:
                result = obstore.put(clients.retrying, key, data, mode="overwrite", attributes={NONCE: nonce()})
            except Exception as error:  # every class of the library, by the table
                raise translate(error, key, self._uri) from error
        if result["e_tag"]:
            return version_of(result["e_tag"])
        return self._look(clients.retrying, key)[0] or Version(None)
