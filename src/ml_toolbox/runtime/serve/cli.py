"""``serve``: the command that a person, a container or a supervisor starts.

Answers on one port until SIGTERM, then drains. Exit status: 0 after a clean end, 1 when nothing could be served, 2 for a
wrong command line or spec.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ml_toolbox.base.errors import Invalid, MissingExtra, ToolboxError
from ml_toolbox.base.ids import check_name
from ml_toolbox.base.processes import identity
from ml_toolbox.runtime.job import write_json
from ml_toolbox.runtime.serve.quota import usable_threads
from ml_toolbox.runtime.serve.spec import ServeSpec, VariantSpec, read_spec

if TYPE_CHECKING:
    from ml_toolbox.runtime.serve.model import Loaded
    from ml_toolbox.runtime.serve.server import ModelServer

_HEARTBEAT_S = 1.0
_PR_SET_PDEATHSIG = 1


def main(argv: Sequence[str]) -> int:
    """Run a server as the command line says; returns the exit status."""
    options = _parser().parse_args(argv)
    logging.basicConfig(stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s", level=logging.INFO)
    # Set before any numeric library is loaded: they size their pools when imported.
    threads = options.threads or usable_threads()
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    os.environ.setdefault("OPENBLAS_NUM_THREADS", str(threads))
    if options.lifeline_fd is not None:
        _die_with_parent()
    try:
        uvloop = _uvloop()
        spec = read_spec(options.spec) if options.spec else _single(options)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(_serve(options, spec, threads))
    except ToolboxError as error:
        sys.stderr.write(f"{error}\n")
        if options.status_fd is not None:
            _write_line(options.status_fd, {"ready": False, "error": error.message, "fatal": True})
        if options.status is not None:
            _write_status(options.status, {"ready": False, "error": error.message, "fatal": True})
        return error.exit_code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="serve", description="Serve a model package over HTTP.")
    parser.add_argument("package", nargs="?", type=Path, help="folder of a model package")
    parser.add_argument(
        "--spec", type=Path, help="JSON file naming several variants and their weights; watched for changes"
    )
    parser.add_argument("--name", help="name in the URLs (default: the folder's name)")
    parser.add_argument("--model", default="", help="NAME:VERSION shown in answers and metrics")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8080, help="port to listen on, 0 for any (default: %(default)s)")
    parser.add_argument("--threads", type=int, help="threads per model call (default: what the CPU quota allows)")
    parser.add_argument("--replica", default="0", help="label of this process in metrics")
    parser.add_argument(
        "--trust", action="store_true", help="load contents that run code (pickle, joblib, Python classes)"
    )
    internal = parser.add_argument_group("for supervisors")
    internal.add_argument("--status", type=Path, help="JSON file that always shows what is in force, and at which URL")
    internal.add_argument("--listen-fd", type=int, help="inherited, bound socket to listen on instead of --port")
    internal.add_argument("--status-fd", type=int, help="inherited pipe that gets one JSON line per change and second")
    internal.add_argument("--lifeline-fd", type=int, help="inherited pipe; when its other end closes, the server ends")
    return parser


def _single(options: argparse.Namespace) -> ServeSpec:
    """The spec of ``serve FOLDER``."""
    if options.package is None:
        raise Invalid("say what to serve", hint="serve MODEL_FOLDER, or serve --spec FILE", field="package")
    folder = options.package.resolve()
    if not folder.is_dir():
        raise Invalid(f"{options.package} is not a folder with a model package", field="package")
    name = check_name(options.name or options.model.partition(":")[0] or folder.name, field="name")
    variant = VariantSpec(name="v1", package=str(folder), model=options.model, trust=options.trust)
    return ServeSpec(name=name, variants=(variant,))


def _uvloop() -> Any:
    for package in ("uvloop", "httptools", "simdjson", "orjson", "numpy"):
        try:
            module = __import__(package)
        except ModuleNotFoundError as error:
            if error.name != package:
                raise
            raise MissingExtra.named(package, "serving", "serving models") from error
        if package == "uvloop":
            uvloop = module
    return uvloop


def _load(spec: VariantSpec, threads: int) -> Loaded:
    from ml_toolbox.packages import Trust, open_package
    from ml_toolbox.runtime.serve.model import Loaded

    package = open_package(Path(spec.package), trust=Trust(explicit=spec.trust))
    predictor = package.predictor(threads=threads)
    for note in package.notes:
        logging.getLogger("mlt.serve").warning("variant %s: passed over %s", spec.name, note)
    stored = package.sample()
    return Loaded(predictor, None if stored is None else stored[0])


async def _serve(options: argparse.Namespace, spec: ServeSpec, threads: int) -> int:
    from ml_toolbox.runtime.serve.server import ModelServer, bound_socket, on_signals

    loop = asyncio.get_running_loop()
    stop, changed = asyncio.Event(), asyncio.Event()
    on_signals(loop, stop=stop, reload=changed)
    if options.lifeline_fd is not None:
        _hold_lifeline(loop, options.lifeline_fd)
    sock = socket.socket(fileno=options.listen_fd) if options.listen_fd is not None else None
    if sock is None:
        sock = bound_socket(options.host, options.port)
    report = _reporter(options, sock)
    server = ModelServer(
        spec, lambda variant: _load(variant, threads), replica=options.replica, on_change=lambda: report(server)
    )
    tasks = [loop.create_task(_beat(server, report))] if options.status_fd is not None else []
    first = loop.create_task(server.apply(spec))
    stopped = loop.create_task(stop.wait())
    await asyncio.wait({first, stopped}, return_when=asyncio.FIRST_COMPLETED)
    if not first.done():
        os._exit(0)  # asked to stop while a model was loading: nobody has been promised an answer
    first.result()
    await server.listen(sock)
    report(server)
    logging.getLogger("mlt.serve").info("serving %s on %s (try it: /docs)", spec.name, _url(sock))
    if options.spec:
        tasks.append(loop.create_task(server.watch(options.spec, changed)))
    await stopped
    clean = await server.drain()
    for task in tasks:
        task.cancel()
    # Model threads may still be inside a foreign call; what was owed is written, so the process may end here.
    sys.stderr.flush()
    os._exit(0 if clean else 1)


async def _beat(server: ModelServer, report: Any) -> None:
    """A line per second from inside the loop: proof that it turns."""
    while True:
        report(server)
        await asyncio.sleep(_HEARTBEAT_S)


def _reporter(options: argparse.Namespace, sock: socket.socket) -> Callable[[ModelServer], None]:
    """Tells whoever started us what is in force: as a line on the pipe, in the file when it changes, or both."""
    if options.status_fd is not None:
        os.set_blocking(options.status_fd, False)
    written: dict[str, Any] = {}

    def report(server: ModelServer) -> None:
        state = server.state()
        if options.status_fd is not None:
            _write_line(options.status_fd, state)
        state["url"] = _url(sock) if server.listening else ""
        if options.status is not None and state != written:
            written.clear()
            written.update(state)
            _write_status(options.status, state)

    return report


def _url(sock: socket.socket) -> str:
    host, port = sock.getsockname()[:2]
    return f"http://{host}:{port}"


def _write_status(path: Path, document: dict[str, Any]) -> None:
    """With the identity of this process: the file may outlive it."""
    write_json(str(path), {**document, "process": str(identity())})


def _write_line(fd: int, document: dict[str, Any]) -> None:
    try:
        os.write(fd, json.dumps(document).encode() + b"\n")
    except BlockingIOError:
        return  # the reader is behind; the next line says the same and more
    except BrokenPipeError:
        os._exit(0)  # whoever started us is gone


def _hold_lifeline(loop: asyncio.AbstractEventLoop, fd: int) -> None:
    os.set_blocking(fd, False)

    def look() -> None:
        if os.read(fd, 64) == b"":
            os._exit(0)

    loop.add_reader(fd, look)


def _die_with_parent() -> None:
    """Ask the kernel to kill us when the parent dies, even if the loop hangs by then (Linux; elsewhere the lifeline pipe
    alone does it)."""
    if sys.platform != "linux":
        return
    import ctypes

    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
