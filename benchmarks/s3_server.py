"""A stand-in for S3 in memory, fast enough that a benchmark measures the client: python benchmarks/s3_server.py PORT

Knows what the benchmark's clients send: PUT, GET with ranges, HEAD, multipart uploads, ListObjectsV2, conditional writes,
aws-chunked bodies. Checks no signatures. Bodies are received straight into their own buffer.
"""

from __future__ import annotations

import asyncio
import bisect
import hashlib
import re
import sys
from typing import cast
from urllib.parse import parse_qsl, unquote
from xml.sax.saxutils import escape

DATE = "Fri, 20 Nov 2026 12:00:00 GMT"
PAGE_SIZE = 1000


class Store:
    def __init__(self) -> None:
        self.objects: dict[str, tuple[list[memoryview], int, str]] = {}
        self.keys: list[str] = []
        self.uploads: dict[str, dict[int, memoryview]] = {}
        self.number = 0

    def put(self, key: str, parts: list[memoryview]) -> str:
        self.number += 1
        tag = f'"{self.number:032x}"'  # not MD5, whose cost would be the server's and not the client's
        if key not in self.objects:
            bisect.insort(self.keys, key)
        self.objects[key] = (parts, sum(len(part) for part in parts), tag)
        return tag


def decoded(body: memoryview) -> memoryview:
    """An aws-chunked body without its framing."""
    data = bytes(body)
    plain = bytearray()
    at = 0
    while True:
        line = data.index(b"\r\n", at)
        size = int(data[at:line].partition(b";")[0], 16)
        if not size:
            return memoryview(plain)
        plain += data[line + 2 : line + 2 + size]
        at = line + 4 + size


class Headers:
    """Looked up by search: most requests need one of a dozen."""

    def __init__(self, lower: str, plain: str) -> None:
        self.lower = lower
        self.plain = plain

    def get(self, name: str, default: str = "") -> str:
        at = self.lower.find(f"\r\n{name}: ")
        if at < 0:
            return default
        start = at + len(name) + 2  # in the plain text, which begins two characters later
        end = self.plain.find("\r\n", start)
        return self.plain[start:] if end < 0 else self.plain[start:end]


class Connection(asyncio.BufferedProtocol):
    def __init__(self, store: Store) -> None:
        self.store = store
        self.incoming = bytearray(256 * 1024)
        self.head = b""
        self.body: memoryview | None = None
        self.have = 0
        self.request: tuple[str, str, Headers] = ("", "", Headers("", ""))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def get_buffer(self, sizehint: int) -> memoryview:
        return memoryview(self.incoming) if self.body is None else self.body[self.have :]

    def buffer_updated(self, nbytes: int) -> None:
        if self.body is None:
            self.head += self.incoming[:nbytes]
            self.read_head()
        else:
            self.have += nbytes
            self.finish_body()

    def read_head(self) -> None:
        while self.body is None and (end := self.head.find(b"\r\n\r\n")) >= 0:
            text = self.head[:end].decode("latin-1")
            rest = self.head[end + 4 :]
            line, _, fields = text.partition("\r\n")
            method, target, _ = line.split(" ")
            self.request = (method, target, Headers("\r\n" + fields.lower(), fields))
            length = int(self.request[2].get("content-length", "0"))
            if "\r\nexpect: 100-continue" in self.request[2].lower:
                self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self.body = memoryview(bytearray(length))
            self.have = min(len(rest), length)
            self.body[: self.have] = rest[: self.have]
            self.head = rest[self.have :]
            self.finish_body()

    def finish_body(self) -> None:
        assert self.body is not None
        if self.have < len(self.body):
            return
        body, self.body = self.body, None
        self.answer(body)
        if self.head:
            self.read_head()

    def reply(
        self,
        status: str,
        parts: list[memoryview] | None = None,
        length: int = -1,
        headers: dict[str, str] | None = None,
    ) -> None:
        parts = parts or []
        size = sum(len(part) for part in parts) if length < 0 else length
        lines = [
            f"HTTP/1.1 {status}",
            f"Content-Length: {size}",
            *(f"{k}: {v}" for k, v in (headers or {}).items()),
        ]
        self.transport.write(("\r\n".join(lines) + "\r\n\r\n").encode())
        for part in parts:
            self.transport.write(part)

    def answer(self, body: memoryview) -> None:
        method, target, headers = self.request
        path, _, search = target.partition("?")
        key = unquote(path).strip("/").partition("/")[2]
        query = dict(parse_qsl(search, keep_blank_values=True)) if search else {}
        if "\r\nx-amz-content-sha256: streaming" in headers.lower:
            body = decoded(body)
        if method in ("GET", "HEAD") and key:
            self.get(method, key, headers)
        elif method == "GET":
            self.list(query)
        elif method == "PUT" and "partNumber" in query:
            self.store.uploads[query["uploadId"]][int(query["partNumber"])] = body
            self.reply("200 OK", headers={"ETag": f'"{query["partNumber"]}"'})
        elif method == "PUT" and key:
            self.put(key, body, headers)
        elif method == "POST" and "uploads" in query:
            upload = hashlib.sha256(f"{key}{len(self.store.uploads)}".encode()).hexdigest()
            self.store.uploads[upload] = {}
            self.xml(f"<InitiateMultipartUploadResult><UploadId>{upload}</UploadId></InitiateMultipartUploadResult>")
        elif method == "POST" and "uploadId" in query:
            parts = self.store.uploads.pop(query["uploadId"])
            tag = self.store.put(key, [parts[number] for number in sorted(parts)])
            self.xml(f"<CompleteMultipartUploadResult><ETag>{escape(tag)}</ETag></CompleteMultipartUploadResult>")
        elif method == "DELETE":
            if self.store.objects.pop(key, None):
                self.store.keys.remove(key)
            self.reply("204 No Content")
        else:
            self.reply("200 OK")

    def put(self, key: str, body: memoryview, headers: Headers) -> None:
        old = self.store.objects.get(key)
        match = headers.get("if-match")
        if (old and headers.get("if-none-match") == "*") or (match and (not old or old[2] != match)):
            self.reply("412 Precondition Failed")
        else:
            self.reply("200 OK", headers={"ETag": self.store.put(key, [body])})

    def get(self, method: str, key: str, headers: Headers) -> None:
        found = self.store.objects.get(key)
        if found is None:
            self.reply("404 Not Found")
            return
        parts, size, tag = found
        start, end, status = 0, size, "200 OK"
        common = {"ETag": tag, "Last-Modified": DATE, "Accept-Ranges": "bytes"}
        if asked := re.fullmatch(r"bytes=(\d+)-(\d*)", headers.get("range", "")):
            start, end, status = int(asked[1]), min(size, int(asked[2] or size) + 1), "206 Partial Content"
            common["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
        if method == "HEAD":
            self.reply(status, length=end - start, headers=common)
            return
        chosen: list[memoryview] = []
        at = 0
        for part in parts:
            chosen.append(part[max(0, start - at) : max(0, end - at)])
            at += len(part)
        self.reply(status, chosen, headers=common)

    def list(self, query: dict[str, str]) -> None:
        prefix = query.get("prefix", "")
        after = max(query.get("start-after", ""), query.get("continuation-token", ""))
        keys = self.store.keys
        at = max(bisect.bisect_right(keys, after) if after else 0, bisect.bisect_left(keys, prefix))
        end = bisect.bisect_left(keys, prefix + "\U0010ffff") if prefix else len(keys)
        chosen = keys[at : min(at + PAGE_SIZE, end)]
        more = at + PAGE_SIZE < end
        entries = "".join(
            f"<Contents><Key>{escape(key)}</Key><LastModified>2026-11-20T12:00:00.000Z</LastModified>"
            f"<ETag>{escape(self.store.objects[key][2])}</ETag><Size>{self.store.objects[key][1]}</Size></Contents>"
            for key in chosen
        )
        token = f"<NextContinuationToken>{escape(chosen[-1])}</NextContinuationToken>" if more else ""
        self.xml(
            f"<ListBucketResult><KeyCount>{len(chosen)}</KeyCount><IsTruncated>{str(more).lower()}</IsTruncated>"
            f"{token}{entries}</ListBucketResult>"
        )

    def xml(self, text: str) -> None:
        self.reply(
            "200 OK", [memoryview(f'<?xml version="1.0"?>{text}'.encode())], headers={"Content-Type": "application/xml"}
        )


async def serve(port: int) -> None:
    store = Store()
    server = await asyncio.get_running_loop().create_server(lambda: Connection(store), "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    try:
        import uvloop
    except ModuleNotFoundError:
        asyncio.run(serve(int(sys.argv[1])))
    else:
        uvloop.run(serve(int(sys.argv[1])))
