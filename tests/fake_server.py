"""A small OpenAI-compatible server on loopback that counts from 1 to n in words, with faults on demand."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Fault = Callable[["Handler", dict[str, Any]], bool]  # True: it has answered in its own way


@dataclass
class Told:
    """What the server was asked. faults: for the next questions, one each, the last for all further ones."""

    asked: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    faults: list[Fault | None] = field(default_factory=list)
    models: list[str] = field(default_factory=lambda: ["tiny"])
    delay: float = 0.0  # seconds before each piece
    together: int = 0
    most_together: int = 0
    address: str = ""
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def questions(self) -> list[str]:
        return [a["messages"][-1]["content"] if "messages" in a else a["prompt"] for a in self.asked]


def answer_to(body: dict[str, Any]) -> list[str]:
    """The pieces of the answer: the question's words, turned round, then as many numbers as are left."""
    asked = body["messages"][-1]["content"] if "messages" in body else body["prompt"]
    words = [*reversed(asked.split()), "and", "so", "on"]
    return [word + " " for word in words][: body.get("max_tokens", 16)]


class Handler(BaseHTTPRequestHandler):
    told: Told

    def log_message(self, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self.whole(200, {"object": "list", "data": [{"id": name, "object": "model"} for name in self.told.models]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        with self.told.lock:
            at = len(self.told.asked)
            self.told.asked.append(body)
            self.told.headers.append(dict(self.headers))
            self.counted, self.told.together = False, self.told.together + 1
            self.told.most_together = max(self.told.most_together, self.told.together)
        try:
            faults = self.told.faults
            fault = faults[min(at, len(faults) - 1)] if faults else None
            if fault is None or not fault(self, body):
                self.stream(answer_to(body), body)
        except (BrokenPipeError, ConnectionResetError):
            pass
        finally:
            self.done()

    counted = False

    def done(self) -> None:
        """No longer one of those that are answered; said before the client can know that it has its answer."""
        with self.told.lock:
            if not self.counted:
                self.counted, self.told.together = True, self.told.together - 1

    def whole(self, status: int, content: Any, kind: str = "application/json", **headers: str) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"content-type": kind, "content-length": str(len(data)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(data)

    def begin(self) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.end_headers()
        self.wfile.flush()

    def event(self, content: Any) -> None:
        data = content if isinstance(content, str) else json.dumps(content)
        self.wfile.write(f"data: {data}\n\n".encode())
        self.wfile.flush()

    def piece(self, text: str | None, body: dict[str, Any], finish: str | None = None) -> None:
        choice: dict[str, Any] = {"index": 0, "finish_reason": finish}
        choice |= {"delta": {"content": text}} if "messages" in body else {"text": text or ""}
        self.event({"id": "x", "object": "chunk", "created": 1, "model": "tiny", "choices": [choice]})

    def stream(self, pieces: list[str], body: dict[str, Any]) -> None:
        self.begin()
        for text in pieces:
            time.sleep(self.told.delay)
            self.piece(text, body)
        self.done()
        self.piece(None, body, "length" if len(pieces) == body.get("max_tokens") else "stop")
        if body.get("stream_options", {}).get("include_usage"):
            usage = {"prompt_tokens": 7, "completion_tokens": len(pieces), "total_tokens": 7 + len(pieces)}
            self.event({"id": "x", "object": "chunk", "created": 1, "model": "tiny", "choices": [], "usage": usage})
        self.event("[DONE]")


@contextmanager
def serving(**options: Any) -> Iterator[Told]:
    told = Told(**options)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("One", (Handler,), {"told": told}))
    server.daemon_threads = True
    told.address = f"http://127.0.0.1:{server.server_port}/v1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield told
    finally:
        server.shutdown()
        server.server_close()


# ---------------------------------------------------------------------------------------- faults


def status(code: int, content: Any, **headers: str) -> Fault:
    def fault(handler: Handler, body: dict[str, Any]) -> bool:
        handler.whole(code, content, **headers)
        return True

    return fault


def cut_after(pieces: int) -> Fault:
    """The connection ends in the middle of an answer, without a word."""

    def fault(handler: Handler, body: dict[str, Any]) -> bool:
        handler.begin()
        for text in answer_to(body)[:pieces]:
            handler.piece(text, body)
        return True

    return fault


def hang(after: int | None, seconds: float) -> Fault:
    """Nothing more comes: before the headers (None), or after so many pieces."""

    def fault(handler: Handler, body: dict[str, Any]) -> bool:
        if after is not None:
            cut_after(after)(handler, body)
        time.sleep(seconds)
        return True

    return fault


def events(*contents: Any) -> Fault:
    def fault(handler: Handler, body: dict[str, Any]) -> bool:
        handler.begin()
        for content in contents:
            handler.event(content)
        return True

    return fault


def reset(handler: Handler, body: dict[str, Any]) -> bool:
    """The socket is closed before anything is said."""
    handler.connection.close()
    return True
