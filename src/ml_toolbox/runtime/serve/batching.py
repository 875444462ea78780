"""One variant's queue: what arrived in the same turn of the event loop goes to the model in one call.

No timer: a request never waits for company that may not come, so batching adds nothing at one connection and is worth 1.6
to 2.2 times the throughput at 16 to 64 (measured). Requests join only where their rows can: same outputs, same row shape.
Fast batches run in the loop; a batch expected to take longer runs on the variant's one thread, so that health checks and
other variants are answered meanwhile, and whatever arrives until it is back forms the next batch.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np

from ml_toolbox.base.errors import ToolboxError
from ml_toolbox.packages.predictor import Predictor
from ml_toolbox.runtime.serve.decoding import Decoded
from ml_toolbox.runtime.serve.metrics import VariantMetrics
from ml_toolbox.runtime.serve.problems import Refused
from ml_toolbox.runtime.serve.schema import Array, Batch, Schema
from ml_toolbox.runtime.serve.spec import Limits

log = logging.getLogger("mlt.serve")

Results = dict[str, Array]


class Reply(Protocol):
    """Where an answer goes."""

    started: float

    def answer(self, body: bytes) -> None: ...

    def refuse(self, refused: Refused) -> None: ...


class Work:
    """One request on its way through the model."""

    __slots__ = ("batch", "encode", "key", "outputs", "reply", "rows")

    def __init__(
        self, reply: Reply, decoded: Decoded, outputs: tuple[str, ...], encode: Callable[[Results], bytes]
    ) -> None:
        self.reply = reply
        self.batch: Batch = decoded.batch
        self.rows = decoded.rows
        self.outputs = outputs
        self.encode = encode
        shape = None if isinstance(self.batch, dict) else self.batch.shape[1:]
        self.key = (outputs, shape)


class CostModel:
    """How long a batch will take: a fixed part and a part per row, learnt from the calls made."""

    __slots__ = ("fixed_s", "row_s")

    def __init__(self, one_row_s: float) -> None:
        self.fixed_s = one_row_s
        self.row_s = 0.0

    def expect(self, rows: int) -> float:
        return self.fixed_s + self.row_s * rows

    def learn(self, rows: int, took_s: float) -> None:
        """Downwards by an eighth of the difference, upwards by a quarter at most: on a busy machine single calls are held up
        for milliseconds, and must not send a fast model to the thread; a model that really grew slow gets there."""
        if rows <= 4:
            self.fixed_s = _nearer(self.fixed_s, max(took_s - self.row_s * rows, 0.0))
        else:
            self.row_s = _nearer(self.row_s, max(took_s - self.fixed_s, 0.0) / rows)


def _nearer(old: float, seen: float) -> float:
    if old == 0.0:
        return seen
    return min(old + (seen - old) / 8, old * 1.25)


class Lane:
    """Queue and execution of one variant. All methods run in the event loop's thread."""

    def __init__(
        self,
        predictor: Predictor,
        schema: Schema,
        metrics: VariantMetrics,
        limits: Limits,
        *,
        one_row_s: float,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._predictor = predictor
        self._schema = schema
        self._metrics = metrics
        self._limits = limits
        self._loop = loop
        self._waiting: list[Work] = []
        self._scheduled = False
        self._away = False
        """A batch is on the thread; nothing else may call the model until it is back."""
        self._thread: ThreadPoolExecutor | None = None
        self._closed = False
        self.cost = CostModel(one_row_s)

    @property
    def idle(self) -> bool:
        return not self._waiting and not self._away

    def submit(self, work: Work) -> None:
        """Queue one request; it is answered or refused later in this or a coming turn of the loop."""
        metrics = self._metrics
        if metrics.queued_rows and metrics.queued_rows + work.rows > self._limits.max_queue_rows:
            work.reply.refuse(Refused(503, "too many rows are waiting for this model", retry_after_s=1))
            return
        metrics.queued_rows += work.rows
        self._waiting.append(work)
        if not self._scheduled and not self._away:
            self._scheduled = True
            self._loop.call_soon(self._flush)

    def close(self) -> None:
        """No request will come any more: what waits is still answered, then the thread ends."""
        self._closed = True
        self._end_if_done()

    def _end_if_done(self) -> None:
        if self._closed and self.idle and self._thread is not None:
            self._thread.shutdown(wait=False)
            self._thread = None

    def _flush(self) -> None:
        self._scheduled = False
        while self._waiting and not self._away:
            group = self._take()
            rows = sum(work.rows for work in group)
            self._metrics.queued_rows -= rows
            if self.cost.expect(rows) > self._limits.inline_limit_s:
                self._run_away(group, rows)
            else:
                self._finish(group, rows, *_run(self._predictor, self._schema, group))
        self._end_if_done()

    def _take(self) -> list[Work]:
        """The longest run of the oldest request's kind, up to the largest batch; the others keep their order."""
        waiting = self._waiting
        key, limit = waiting[0].key, self._limits.max_batch_rows
        if len(waiting) == 1:
            self._waiting = []
            return waiting
        group: list[Work] = []
        others: list[Work] = []
        rows = 0
        for work in waiting:
            if work.key == key and (not group or rows + work.rows <= limit):
                group.append(work)
                rows += work.rows
            else:
                others.append(work)
        self._waiting = others
        return group

    def _run_away(self, group: list[Work], rows: int) -> None:
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._away = True
        future = self._loop.run_in_executor(self._thread, _run, self._predictor, self._schema, group)
        future.add_done_callback(lambda done: self._back(group, rows, done))

    def _back(self, group: list[Work], rows: int, done: asyncio.Future[Any]) -> None:
        self._away = False
        self._finish(group, rows, *done.result())
        if self._waiting:
            self._flush()
        self._end_if_done()

    def _finish(self, group: list[Work], rows: int, results: list[Results | Refused], took_s: float) -> None:
        self.cost.learn(rows, took_s)
        metrics = self._metrics
        metrics.batch_rows.observe(rows)
        metrics.batch_requests.observe(len(group))
        for work, result in zip(group, results, strict=True):
            if isinstance(result, Refused):
                work.reply.refuse(result)
                continue
            try:
                body = work.encode(result)
            except (TypeError, ValueError, ToolboxError):
                log.exception("the answer of %s cannot be written", self._predictor.engine)
                work.reply.refuse(Refused(500, "the model's answer cannot be written in this format"))
                continue
            work.reply.answer(body)
        now = time.monotonic()
        latency = metrics.latency
        for work in group:
            latency.observe(now - work.reply.started)


def _run(predictor: Predictor, schema: Schema, group: Sequence[Work]) -> tuple[list[Results | Refused], float]:
    """Results per request and the seconds of the model's call. When the joint call fails, each request is tried alone, so
    that only the one to blame gets the error."""
    started = time.perf_counter()
    if len(group) == 1:
        results: list[Results | Refused] = [_alone(predictor, schema, group[0])]
        return results, time.perf_counter() - started
    outputs = group[0].outputs
    rows = sum(work.rows for work in group)
    try:
        joint = predictor(schema.settle(_joined(group)), outputs)
        _check_rows(joint, rows)
    except Exception:  # noqa: BLE001 - foreign code may raise anything; each request's own error is told below
        return [_alone(predictor, schema, work) for work in group], time.perf_counter() - started
    took_s = time.perf_counter() - started
    return _parted(joint, group), took_s


def _joined(group: Sequence[Work]) -> Batch:
    first = group[0].batch
    if isinstance(first, dict):
        return {name: np.concatenate([work.batch[name] for work in group]) for name in first}
    return np.concatenate([work.batch for work in group])


def _parted(joint: Results, group: Sequence[Work]) -> list[Results | Refused]:
    parts: list[Results | Refused] = []
    start = 0
    items = list(joint.items())
    if len(items) == 1:
        name, array = items[0]
        for work in group:
            end = start + work.rows
            parts.append({name: array[start:end]})
            start = end
        return parts
    for work in group:
        end = start + work.rows
        parts.append({name: array[start:end] for name, array in items})
        start = end
    return parts


def _alone(predictor: Predictor, schema: Schema, work: Work) -> Results | Refused:
    try:
        results = predictor(schema.settle(work.batch), work.outputs)
        _check_rows(results, work.rows)
    except Refused as refused:
        return refused
    except ToolboxError as error:
        return Refused.of(error)
    except Exception as error:  # foreign code: told to the log in full, to the client by its kind only
        if not _finite(work.batch):
            return Refused(400, "the rows hold infinite or missing numbers, which the model refuses", field="instances")
        log.exception("the model failed on %d row(s)", work.rows)
        return Refused(500, f"the model failed on these rows: {type(error).__name__}", hint="the server's log has more")
    return results


def _check_rows(results: Results, rows: int) -> None:
    for name, array in results.items():
        if array.shape[:1] != (rows,):
            raise Refused(500, f"the model gave {array.shape[:1]} answers in {name!r} for {rows} rows")


def _finite(batch: Batch) -> bool:
    arrays = batch.values() if isinstance(batch, dict) else (batch,)
    return all(bool(np.isfinite(array).all()) for array in arrays if array.dtype.kind == "f")
