"""A small HTTPS server that stands in for Blob storage.

It stores what the unmodified azure-storage-blob sends, serves it in parts as devices ask for it,
and refuses a signature that is wrong or expired, as the storage does.
Source: Microsoft's REST reference of Put Blob, Put Block, Put Block List, Get Blob, Delete Blob.
"""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, quote, unquote, urlsplit
from xml.etree import ElementTree

from fwupdate_helpers.localhub import tls
from fwupdate_helpers.localhub.statedir import StateDir

SIGNATURE = "c2VjcmV0/c2lnbmF0dXJl+dGhhdA=="
LATER = "2199-01-01T00:00:00Z"


@dataclass
class Storage:
    """What the storage holds, and what it was asked.

    Attributes:
        blobs: By path, `/account/images/<folder>/<name>`.
        requests: Method, path and the headers of each request.
        busy: So many requests are answered with 503 first.
    """

    url: str = ""
    blobs: dict[str, tuple[bytes, str]] = field(default_factory=dict)
    blocks: dict[str, bytes] = field(default_factory=dict)
    requests: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    busy: int = 0

    def container(
        self, *, expiry: str = LATER, permissions: str = "racwd", signature: str = SIGNATURE
    ) -> str:
        """Return the SAS URL of the container `images`."""
        sas = f"sp={permissions}&se={quote(expiry, safe='')}&sv=2022-11-02&sr=c"
        return f"{self.url}/account/images?{sas}&sig={quote(signature, safe='')}"


def handler_of(storage: Storage) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self, status: int, code: str = "", body: bytes = b"", **headers: str) -> None:
            self.send_response(status)
            if code:
                headers["x-ms-error-code"] = code
                details = f"<Code>{code}</Code><Message>No.</Message>"
                body = f"<?xml version='1.0'?><Error>{details}</Error>".encode()
                headers["Content-Type"] = "application/xml"
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def handle_one(self) -> None:
            length = int(self.headers.get("Content-Length", 0))
            content = self.rfile.read(length)
            parts = urlsplit(self.path)
            query = {name: values[0] for name, values in parse_qs(parts.query).items()}
            path = unquote(parts.path)
            storage.requests.append((self.command, path, dict(self.headers)))
            if storage.busy:
                storage.busy -= 1
                self.answer(503, "ServerBusy")
            elif query.get("sig") != SIGNATURE or query["se"] < "2026":
                self.answer(403, "AuthenticationFailed")
            elif not path.startswith("/account/images/"):
                self.answer(404, "ContainerNotFound")
            elif needed(self.command) not in query["sp"]:
                self.answer(403, "AuthorizationPermissionMismatch")
            else:
                getattr(self, f"do_{self.command}_allowed")(path, query, content)

        do_GET = do_PUT = do_DELETE = do_HEAD = handle_one

        def do_PUT_allowed(self, path: str, query: dict[str, str], content: bytes) -> None:
            if query.get("comp") == "block":
                storage.blocks[query["blockid"]] = content
                return self.answer(201)
            if query.get("comp") == "blocklist":
                ids = [block.text for block in ElementTree.fromstring(content)]
                content = b"".join(storage.blocks.pop(str(id_)) for id_ in ids)
                type_ = self.headers["x-ms-blob-content-type"]
            else:
                assert self.headers["x-ms-blob-type"] == "BlockBlob"
                type_ = self.headers["x-ms-blob-content-type"]
            if self.headers.get("If-None-Match") == "*" and path in storage.blobs:
                return self.answer(409, "BlobAlreadyExists")
            storage.blobs[path] = content, type_
            modified = "Tue, 01 Jan 2030 00:00:00 GMT"
            self.answer(201, ETag='"0x8D"', Last_Modified=modified)

        def do_GET_allowed(self, path: str, query: dict[str, str], content: bytes) -> None:
            if path not in storage.blobs:
                return self.answer(404, "BlobNotFound")
            body, type_ = storage.blobs[path]
            own = {"ETag": f'"0x{hashlib.sha256(body).hexdigest()[:15].upper()}"'}
            if self.headers.get("If-Match", own["ETag"]) != own["ETag"]:
                return self.answer(412, "ConditionNotMet")
            own |= {"Content_Type": type_, "Accept_Ranges": "bytes"}
            span = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
            if span is None:
                return self.answer(200, "", body, **own)
            first, last = int(span[1]), min(int(span[2] or len(body)), len(body) - 1)
            if first > last:
                return self.answer(416, "InvalidRange")
            own["Content_Range"] = f"bytes {first}-{last}/{len(body)}"
            self.answer(206, "", body[first : last + 1], **own)

        def do_DELETE_allowed(self, path: str, query: dict[str, str], content: bytes) -> None:
            if storage.blobs.pop(path, None) is None:
                return self.answer(404, "BlobNotFound")
            self.answer(202)

        def log_message(self, format: str, *arguments: object) -> None:
            return

    return Handler


def needed(method: str) -> str:
    return {"PUT": "w", "GET": "r", "HEAD": "r", "DELETE": "d"}[method]


@contextmanager
def blob_storage(state: StateDir, address: str = "127.0.0.1") -> Iterator[Storage]:
    """Run an empty storage, with the certificate of a local hub's state folder."""
    storage = Storage()
    server = ThreadingHTTPServer((address, 0), handler_of(storage))
    server.daemon_threads = True
    server.socket = tls.server_context(state).wrap_socket(server.socket, server_side=True)
    storage.url = f"https://{address}:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), name="storage")
    thread.start()
    try:
        yield storage
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
