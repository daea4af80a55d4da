"""A hub on this machine: the few answers of huggingface.co that a download needs."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(ThreadingHTTPServer):
    """Serves `models`, id -> folder; asking for a `gated` one is forbidden."""

    def __init__(self, models: dict[str, Path], gated: tuple[str, ...] = ()):
        super().__init__(("127.0.0.1", 0), Answer)
        self.models, self.gated = models, gated
        self.served: list[str] = []  # names of the files whose content was sent
        self.broken: set[str] = set()  # names of files that are known, but not sent
        self.claimed: dict[str, int] = {}  # sizes of files, other than they have

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Answer(BaseHTTPRequestHandler):
    server: Hub

    def do_GET(self) -> None:
        self.answer(with_body=True)

    def do_HEAD(self) -> None:
        self.answer(with_body=False)

    def log_message(self, *words: Any) -> None:
        pass

    def answer(self, with_body: bool) -> None:
        parts = unquote(urlsplit(self.path).path).strip("/").split("/")
        api = parts[:2] == ["api", "models"]
        if api:
            parts = parts[2:]
        name, rest = "/".join(parts[:2]), parts[2:]
        if name in self.server.gated:
            self.send({"X-Error-Code": "GatedRepo"}, b"{}", with_body, 403)
        elif name not in self.server.models:
            self.send({"X-Error-Code": "RepoNotFound"}, b"{}", with_body, 404)
        elif api:
            folder = self.server.models[name]
            content = self.tree(folder) if rest[:1] == ["tree"] else self.info(name, folder)
            self.send({"Content-Type": "application/json"}, content, with_body)
        else:
            self.file(self.server.models[name] / "/".join(rest[2:]), with_body)

    def info(self, name: str, folder: Path) -> bytes:
        siblings = [{"rfilename": path.name} for path in sorted(folder.iterdir())]
        facts = {"id": name, "modelId": name, "sha": COMMIT, "siblings": siblings}
        return json.dumps({**facts, "private": False, "gated": False, "tags": []}).encode()

    def tree(self, folder: Path) -> bytes:
        return json.dumps(
            [
                {
                    "type": "file",
                    "path": path.name,
                    "size": path.stat().st_size,
                    "oid": hashlib.sha1(path.read_bytes()).hexdigest(),
                }
                for path in sorted(folder.iterdir())
            ]
        ).encode()

    def file(self, path: Path, with_body: bool) -> None:
        if not path.is_file():
            self.send({"X-Error-Code": "EntryNotFound"}, b"", with_body, 404)
            return
        if with_body and path.name in self.server.broken:
            self.send({}, b"", with_body, 403)
            return
        content = path.read_bytes()
        if with_body:
            self.server.served.append(path.name)
        self.send(self.facts(path, content), content, with_body)

    def facts(self, path: Path, content: bytes) -> dict[str, str]:
        size = self.server.claimed.get(path.name, len(content))
        tag = hashlib.sha1(content).hexdigest()
        return {"ETag": f'"{tag}"', "X-Repo-Commit": COMMIT, "X-Linked-Size": str(size)}

    def send(
        self, headers: dict[str, str], content: bytes, with_body: bool, status: int = 200
    ) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if with_body:
            self.wfile.write(content)


@contextmanager
def hub(models: dict[str, Path], gated: tuple[str, ...] = ()) -> Iterator[Hub]:
    """A running hub; it stops when the block ends."""
    with Hub(models, gated) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()
