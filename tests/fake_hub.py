"""A Hugging Face hub of a folder: the few requests that reading data sets and models and sending models make."""

import base64
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import unquote, urlsplit

COMMIT = "a" * 40


@contextmanager
def fake_hub(folder: Path) -> Iterator[str]:
    """The address of a hub whose data set ``owner/name`` are the files in ``folder/owner/name``.

    Models that are sent lie in ``folder/models/owner/name``.
    """
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"folder": folder}))
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    folder: Path

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def do_POST(self) -> None:
        size = int(self.headers.get("Content-Length", 0))
        body = self.rfile.read(size) if size else self.rfile_chunks()
        parts = unquote(urlsplit(self.path).path).strip("/").split("/")
        if parts == ["api", "repos", "create"]:
            given = json.loads(body)
            name = "/".join(filter(None, (given.get("organization"), given["name"])))
            (self.folder / "models" / name).mkdir(parents=True, exist_ok=True)
            self.send(json.dumps({"url": f"http://{self.headers['Host']}/{name}"}).encode())
        elif parts == ["api", "validate-yaml"]:
            self.send(b'{"errors": [], "warnings": []}')
        elif "preupload" in parts:
            files = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                for file in json.loads(body)["files"]
            ]
            self.send(json.dumps({"files": files}).encode())
        elif "commit" in parts:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    place = self.folder.joinpath("models", *parts[2:4], line["value"]["path"])
                    place.parent.mkdir(parents=True, exist_ok=True)
                    place.write_bytes(base64.b64decode(line["value"]["content"]))
            address = f"http://{self.headers['Host']}/{'/'.join(parts[2:4])}/commit/{COMMIT}"
            self.send(json.dumps({"commitUrl": address, "commitOid": COMMIT}).encode())
        else:
            self.answer()

    def rfile_chunks(self) -> bytes:
        """The body of a request that is sent in chunks."""
        body = b""
        while self.headers.get("Transfer-Encoding") == "chunked" and (length := int(self.rfile.readline(), 16)):
            body += self.rfile.read(length)
            self.rfile.readline()
        return body

    def answer(self) -> None:
        parts = unquote(urlsplit(self.path).path).strip("/").split("/")
        if parts[0] != "datasets" and parts[2:3] == ["resolve"]:
            parts = ["models", *parts]
        kinds = {"datasets": self.folder, "models": self.folder / "models"}
        if parts[0] == "api" and parts[1] in kinds and (root := kinds[parts[1]].joinpath(*parts[2:4])).is_dir():
            files = [_entry(path, root) for path in sorted(root.rglob("*")) if path.is_file()]
            info = {"id": "/".join(parts[2:4]), "sha": COMMIT, "private": False, "downloads": 0, "likes": 0, "tags": []}
            info["siblings"] = [{"rfilename": file["path"]} for file in files]
            if "tree" in parts:
                self.send(json.dumps(files).encode())
            elif "paths-info" in parts:
                self.send(b"[]")
            else:
                self.send(json.dumps(info).encode())
        elif parts[0] in kinds and "resolve" in parts:
            path = kinds[parts[0]].joinpath(*parts[1:3], *parts[5:])
            self.send(path.read_bytes()) if path.is_file() else self.send(b"", 404, "EntryNotFound")
        else:
            self.send(b"", 404, "RepoNotFound")

    def send(self, body: bytes, status: int = 200, error: str | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", f'"{hashlib.sha1(body).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        if error:
            self.send_header("X-Error-Code", error)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


def _entry(path: Path, root: Path) -> dict[str, object]:
    body = path.read_bytes()
    name = path.relative_to(root).as_posix()
    return {"type": "file", "path": name, "size": len(body), "oid": hashlib.sha1(body).hexdigest()}
