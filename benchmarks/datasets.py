"""Saving and loading datasets, beside npy, Parquet and the naive pickle+gzip.

    python benchmarks/datasets.py [--quick] [--rounds N]

Peers run interleaved, round by round, in one process; the table shows medians. ``durable`` peers end with fsync, as every
write of the toolbox does; the plain ones may still be lost with the power. Writes docs/benchmarks/datasets.md.
"""

from __future__ import annotations

import argparse
import gc
import gzip
import mmap
import os
import pickle
import platform
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from ml_toolbox import datasets
from ml_toolbox.objects import open_store

PAGE = Path(__file__).resolve().parent.parent / "docs" / "benchmarks" / "datasets.md"
Peer = tuple[Callable[[Path], None], Callable[[Path], Any]]


def matrix(rows: int) -> Any:
    """Random float32: nothing to gain by compression."""
    return np.random.default_rng(0).random((rows, 50), dtype=np.float32)


def table(rows: int) -> Any:
    random = np.random.default_rng(1)
    return pd.DataFrame(
        {
            "int": random.integers(0, 1000, rows),
            "f64": random.normal(size=rows),
            "f32": random.normal(size=rows).astype(np.float32),
            "category": pd.Categorical(random.choice(list("abcdefgh"), rows)),
            "text": random.choice([f"value-{i}" for i in range(5000)], rows),
            "unique": [f"customer-{i:09d}" for i in random.permutation(rows)],
            "time": pd.Timestamp("2024-01-01") + pd.to_timedelta(random.integers(0, 10**7, rows), unit="s"),
            "flag": random.random(rows) > 0.5,
        }
    )


def durable(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    os.fsync(handle)
    os.close(handle)


def save_toolbox(data: Any, folder: Path) -> None:
    datasets.save(data, open_store(str(folder)), "d")


def load_toolbox(folder: Path, **options: Any) -> Any:
    return datasets.load(open_store(str(folder)), "d", **options)


def save_gzip(data: Any, folder: Path) -> None:
    with gzip.open(folder / "d.pkl.gz", "wb") as file:
        pickle.dump(data, file)


def load_gzip(folder: Path) -> Any:
    with gzip.open(folder / "d.pkl.gz", "rb") as file:
        return pickle.load(file)


def array_peers(data: Any) -> dict[str, Peer]:
    def npy(folder: Path) -> None:
        np.save(folder / "d.npy", data)

    def npy_durable(folder: Path) -> None:
        npy(folder)
        durable(folder / "d.npy")

    def load_npy(folder: Path) -> Any:
        return np.load(folder / "d.npy")

    return {
        "toolbox": (lambda f: save_toolbox(data, f), lambda f: load_toolbox(f, mmap=False)),
        "npy": (npy, load_npy),
        "npy, durable": (npy_durable, load_npy),
        "pickle+gzip": (lambda f: save_gzip(data, f), load_gzip),
    }


def table_peers(data: Any) -> dict[str, Peer]:
    def parquet(folder: Path) -> None:
        data.to_parquet(folder / "d.parquet", compression="zstd")

    def parquet_durable(folder: Path) -> None:
        parquet(folder)
        durable(folder / "d.parquet")

    def load(folder: Path) -> Any:
        return pq.read_table(folder / "d.parquet").to_pandas()

    return {
        "toolbox": (lambda f: save_toolbox(data, f), load_toolbox),
        "pyarrow Parquet zstd": (parquet, load),
        "pyarrow Parquet zstd, durable": (parquet_durable, load),
        "pickle+gzip": (lambda f: save_gzip(data, f), load_gzip),
    }


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def timed(action: Callable[[], Any]) -> float:
    gc.collect()
    start = time.perf_counter()
    result = action()
    seconds = time.perf_counter() - start
    del result
    return seconds


def compare(peers: dict[str, Peer], rounds: int) -> dict[str, tuple[float, float, int]]:
    """Peer -> (median seconds to save, to load, bytes). Round 0 warms up and does not count; pickle+gzip, which takes seconds
    either way, runs in round 1 only. Each round begins with another peer."""
    saves: dict[str, list[float]] = {name: [] for name in peers}
    loads: dict[str, list[float]] = {name: [] for name in peers}
    sizes: dict[str, int] = {}
    names = list(peers)
    for number in range(rounds + 1):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            if number != 1 and name == "pickle+gzip":
                continue
            save, load = peers[name]
            folder = Path(tempfile.mkdtemp(prefix="mlt-bench-"))
            try:
                saves[name].append(timed(lambda save=save, folder=folder: save(folder)))  # type: ignore[misc]
                for _ in range(2):
                    loads[name].append(timed(lambda load=load, folder=folder: load(folder)))  # type: ignore[misc]
                sizes[name] = size_of(folder)
            finally:
                shutil.rmtree(folder)
            if number == 0:
                saves[name].clear()
                loads[name].clear()
    return {name: (statistics.median(saves[name]), statistics.median(loads[name]), sizes[name]) for name in peers}


def mmap_open(data: Any, rounds: int) -> tuple[float, float]:
    """Median seconds to open a stored array mapped, by the toolbox and by numpy alone."""
    ours, theirs = [], []
    with tempfile.TemporaryDirectory(prefix="mlt-bench-") as folder:
        save_toolbox(data, Path(folder))
        np.save(Path(folder, "x.npy"), data)
        for _ in range(rounds * 5):
            ours.append(timed(lambda: load_toolbox(Path(folder))))
            theirs.append(timed(lambda: np.load(Path(folder, "x.npy"), mmap_mode="r")))
    return statistics.median(ours), statistics.median(theirs)


def device_alone(data: Any, rounds: int) -> str:
    """Seconds the device itself takes for the bytes of the array, past the page cache: what no durable save can beat."""
    data = data.reshape(-1).view(np.uint8)
    start = -data.ctypes.data % mmap.PAGESIZE  # direct I/O takes whole pages at addresses of whole pages
    pages = data[start : len(data) - (len(data) - start) % mmap.PAGESIZE].data
    seconds = []
    with tempfile.TemporaryDirectory(prefix="mlt-bench-") as folder:
        for number in range(rounds):
            try:
                handle = os.open(Path(folder, str(number)), os.O_CREAT | os.O_WRONLY | os.O_DIRECT)
            except OSError as error:
                return f"not measured (O_DIRECT: {error.strerror})"
            try:
                seconds.append(timed(lambda handle=handle: write_direct(handle, pages)))  # type: ignore[misc]
            finally:
                os.close(handle)
                Path(folder, str(number)).unlink()
    return f"{statistics.median(seconds):.3f} s"


def write_direct(handle: int, pages: memoryview) -> None:
    os.posix_fallocate(handle, 0, len(pages))
    at = 0
    while at < len(pages):
        at += os.pwrite(handle, pages[at : at + 16 * 2**20], at)
    os.fsync(handle)


def same_dtypes(data: Any) -> bool:
    with tempfile.TemporaryDirectory(prefix="mlt-bench-") as folder:
        save_toolbox(data, Path(folder))
        back = load_toolbox(Path(folder))
        pd.testing.assert_frame_equal(back, data)
        return bool((back.dtypes == data.dtypes).all())


def rows_of(results: dict[str, tuple[float, float, int]]) -> list[str]:
    ours = results["toolbox"]
    lines = ["| | save s | toolbox : this | load s | toolbox : this | MiB |", "|---|---|---|---|---|---|"]
    for name, (save, load, size) in results.items():
        ratios = (f"{ours[0] / save:.2f}", f"{ours[1] / load:.2f}") if name != "toolbox" else ("", "")
        lines.append(f"| {name} | {save:.3f} | {ratios[0]} | {load:.3f} | {ratios[1]} | {size / 2**20:.1f} |")
    return lines


def page(quick: bool, rounds: int) -> str:
    rows = 100_000 if quick else 1_000_000
    data = matrix(rows)
    arrays = compare(array_peers(data), rounds)
    opened, numpy_opened = mmap_open(data, rounds)
    device = device_alone(data, rounds)
    del data
    frame = table(rows)
    tables = compare(table_peers(frame), rounds)
    kept = same_dtypes(frame)
    command = f"python benchmarks/datasets.py{' --quick' if quick else ''} --rounds {rounds}"
    where = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    return "\n".join(
        [
            "# Datasets: save, load, size",
            "",
            f"`{command}` on {where}, NumPy {np.__version__}, pandas {pd.__version__}.",
            "Medians of interleaved rounds after one that warms up, page cache warm; pickle+gzip runs in one round.",
            "Ratios below 1: the toolbox is faster. *durable*: with fsync at the end, which the toolbox always does.",
            "",
            f"## Array {rows:,} x 50 float32",
            *rows_of(arrays),
            "",
            f"The device alone, for the same bytes (direct I/O into a preallocated file, fsync): {device}.",
            f"Opened memory-mapped: {opened * 1000:.2f} ms (numpy.load with mmap_mode alone: {numpy_opened * 1000:.2f} ms).",
            "",
            f"## Table {rows:,} rows x 8 (int, float64, float32, category, text of 5,000 values, unique text, time, bool)",
            *rows_of(tables),
            "",
            f"All dtypes and values kept by the toolbox: {'yes' if kept else 'no'}.",
            "",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--quick", action="store_true", help="a tenth of the rows; writes no page")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    text = page(arguments.quick, arguments.rounds)
    print(text)
    if not arguments.quick:
        PAGE.parent.mkdir(parents=True, exist_ok=True)
        PAGE.write_text(text)


if __name__ == "__main__":
    main()
