"""moto's server, doing one request after the other: ``python -m tests.providers.objects.serial_moto PORT``.

moto answers every request in a thread of its own and, in ``put_object``, first compares ``If-Match`` and ``If-None-Match``
and then stores, with nothing held in between: two conditional writes at once can both succeed (seen with 5.2; the
histories of ``tests/linearizability`` found it). Amazon documents conditional writes as atomic, so here they are.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterable
from typing import Any

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import run_simple


class OneAtATime:
    """A WSGI application that is entered by one thread at a time, and left with the whole answer."""

    def __init__(self, application: Any) -> None:
        self._application = application
        self._lock = threading.Lock()

    def __call__(self, environ: Any, start_response: Any) -> Iterable[bytes]:
        with self._lock:
            answer = self._application(environ, start_response)
            try:
                return list(answer)
            finally:
                if hasattr(answer, "close"):
                    answer.close()


if __name__ == "__main__":
    run_simple(
        "127.0.0.1",
        int(sys.argv[1]),
        OneAtATime(DomainDispatcherApplication(create_backend_app)),
        threaded=True,
        request_handler=MotoRequestHandler,
    )
