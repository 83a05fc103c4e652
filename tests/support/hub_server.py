"""A small Hugging Face hub on 127.0.0.1 for the tests: the requests of a download, and failures of a network."""

import hashlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Repo:
    """A repository at one commit. Files of `lfs_from_bytes` or more have a SHA-256, smaller ones git's SHA-1."""

    files: dict[str, bytes]
    commit: str = COMMIT
    branches: tuple[str, ...] = ("main",)
    token: str | None = None
    gated: bool = False
    lfs_from_bytes: int = 1000


@dataclass
class Hub:
    """The state of the server: its repositories, the failures to simulate, and the requests received.

    cut_after_bytes     close the connection after so many bytes of a file, once for each entry
    bytes_per_second    None: unlimited
    status              response to every request
    headers             added to every response
    wrong_content       file name -> bytes that are sent instead of those that the checksum is of
    sizes               file name -> size in the file list
    ignores_range       send the whole file with status 200 to a range request
    expired_tokens      a request with one of these is refused, also for a public repository, as by the real hub
    storage             URL of another hub to which requests for files are redirected, as the real hub does
    """

    repos: dict[str, Repo] = field(default_factory=dict)
    cut_after_bytes: list[int] = field(default_factory=list)
    bytes_per_second: int | None = None
    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    wrong_content: dict[str, bytes] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    ignores_range: bool = False
    expired_tokens: set[str] = field(default_factory=set)
    storage: str = ""
    requests: list[str] = field(default_factory=list)
    ranges: list[str] = field(default_factory=list)
    tokens: list[str] = field(default_factory=list)
    sent_bytes: int = 0
    url: str = ""

    def forget(self) -> None:
        """Forget the requests received so far."""
        self.requests.clear()
        self.ranges.clear()
        self.tokens.clear()
        self.sent_bytes = 0


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, with_body: bool) -> None:
        hub = self.hub
        path = unquote(urlsplit(self.path).path)
        if path == "/api/agent-harnesses":  # a request of huggingface-hub 2 itself
            return self._refuse(404, "")
        hub.requests.append(f"{self.command} {path}")
        hub.tokens.append(self.headers.get("Authorization", ""))
        if hub.status:
            return self._refuse(hub.status, "")
        if self.headers.get("Authorization", "").removeprefix("Bearer ") in hub.expired_tokens:
            message = "Invalid credentials in Authorization header"
            return self._send(401, b'{"error": "%s"}' % message.encode(), {"X-Error-Message": message})
        if path.startswith("/api/models/"):
            return self._model_info(path.removeprefix("/api/models/"))
        repo_name, _, rest = path.lstrip("/").partition("/resolve/")
        revision, _, name = rest.partition("/")
        repo = self._repo(repo_name, revision)
        if repo is None:
            return None
        if name not in repo.files:
            return self._refuse(404, "EntryNotFound")
        if hub.storage:
            return self._send(302, b"", {"Location": hub.storage + self.path})
        return self._file(repo, name, with_body)

    def _repo(self, repo_name: str, revision: str) -> Repo | None:
        repo = self.hub.repos.get(repo_name)
        if repo is None:
            # The real hub answers 401 to a request without a token for a repository that does not exist.
            self._refuse(401, "RepoNotFound")
        elif repo.token and self.headers.get("Authorization") != f"Bearer {repo.token}":
            self._refuse(403 if repo.gated else 401, "GatedRepo" if repo.gated else "RepoNotFound")
        elif revision not in (repo.commit, *repo.branches):
            self._refuse(404, "RevisionNotFound")
        else:
            return repo
        return None

    def _model_info(self, rest: str) -> None:
        repo_name, _, revision = rest.partition("/revision/")
        repo = self._repo(repo_name, revision or "main")
        if repo is None:
            return
        siblings = []
        for name, data in repo.files.items():
            sibling: dict[str, object] = {"rfilename": name, "size": len(data), "blobId": _git_sha1(data)}
            if len(data) >= repo.lfs_from_bytes:
                size = self.hub.sizes.get(name, len(data))
                sibling["lfs"] = {"sha256": _sha256(data), "size": size, "pointerSize": 130}
            siblings.append(sibling)
        info = {"id": repo_name, "modelId": repo_name, "sha": repo.commit, "siblings": siblings, "tags": []}
        self._send(200, json.dumps(info).encode(), {"Content-Type": "application/json"})

    def _file(self, repo: Repo, name: str, with_body: bool) -> None:
        data = repo.files[name]
        etag = _sha256(data) if len(data) >= repo.lfs_from_bytes else _git_sha1(data)
        headers = {
            "ETag": f'"{etag}"',
            "X-Repo-Commit": repo.commit,
            "X-Linked-Etag": f'"{etag}"',
            "X-Linked-Size": str(len(data)),
            "Accept-Ranges": "bytes",
        }
        data = self.hub.wrong_content.get(name, data)
        requested = self.headers.get("Range", "")
        self.hub.ranges.append(requested)
        if requested and not self.hub.ignores_range:
            first, _, last = requested.removeprefix("bytes=").partition("-")
            start, stop = int(first), min(int(last) + 1, len(data)) if last else len(data)
            if start >= len(data):
                return self._send(416, b"", {"Content-Range": f"bytes */{len(data)}"})
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(data)}"
            return self._send(206, data[start:stop], headers, with_body)
        return self._send(200, data, headers, with_body)

    def _refuse(self, status: int, code: str) -> None:
        self._send(status, b'{"error": "no"}', {"X-Error-Code": code} if code else {})

    def _send(self, status: int, body: bytes, headers: dict[str, str], with_body: bool = True) -> None:
        self.send_response(status)
        for key, value in {**headers, **self.hub.headers, "Content-Length": str(len(body))}.items():
            self.send_header(key, value)
        self.end_headers()
        if with_body and self.command == "GET":
            self._send_slowly(body, is_file=status in (200, 206) and "ETag" in headers)

    def _send_slowly(self, body: bytes, is_file: bool) -> None:
        if not is_file:
            self.wfile.write(body)
            return
        limit = self.hub.cut_after_bytes.pop(0) if self.hub.cut_after_bytes else len(body)
        for start in range(0, min(limit, len(body)), 1 << 14):
            chunk = body[start : min(start + (1 << 14), limit)]
            try:
                self.wfile.write(chunk)
                self.wfile.flush()
            except OSError:
                break
            self.hub.sent_bytes += len(chunk)
            if self.hub.bytes_per_second:
                time.sleep(len(chunk) / self.hub.bytes_per_second)
        if limit < len(body):
            self.close_connection = True


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _git_sha1(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


@contextmanager
def serve(**repos: Repo) -> Iterator[Hub]:
    """Run a hub; `hub.url` is the value for HF_ENDPOINT, and repositories can be added to `hub.repos`."""
    hub = Hub(repos=dict(repos))
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def silent_server() -> Iterator[str]:
    """Run a server that accepts connections and never answers, as a firewall that drops packets; yields its URL."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(50)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
