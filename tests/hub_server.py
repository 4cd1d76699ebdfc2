"""A small Hub over real HTTP, in memory: what the client of huggingface_hub asks of the public one, so that tests need none.

    with LocalHub() as hub:
        HfApi(endpoint=hub.endpoint, token=hub.token).create_repo("me/model")

Models, datasets and spaces; commits with parents, LFS uploads, ranges, private repositories, typed errors; no Xet.
"""

import base64
import contextlib
import hashlib
import json
import os
import re
import secrets
import shutil
import socket
import sys
import tempfile
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

import yaml


USER = "me"
LFS_SUFFIXES = (".safetensors", ".bin", ".parquet", ".arrow", ".gguf", ".onnx", ".pt", ".npz")
LFS_FROM = 10 * 2**20  # bytes
DATE = "2026-01-01T00:00:00.000Z"
# settings of the caller's shell that would lead a subprocess past `HF_HOME` or the server
REROUTING = ("HF_HUB_CACHE", "HF_MODULES_CACHE", "HF_TOKEN_PATH", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
ROUTES: list[tuple[str, re.Pattern, str]] = []


class HubError(Exception):
    """An answer other than 2xx; `code` becomes the X-Error-Code that typed exceptions are made from."""

    def __init__(self, status: int, message: str, code: str | None = None, **headers: str):
        super().__init__(message)
        self.status, self.code, self.headers = status, code, headers


@dataclass
class Blob:
    content: bytes
    lfs: bool

    @property
    def git_oid(self) -> str:
        content = self.content
        if self.lfs:
            content = (
                f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {len(content)}\n".encode()
            )
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def etag(self) -> str:
        return self.sha256 if self.lfs else self.git_oid

    def entry(self, path: str) -> dict:
        """As `tree` and `paths-info` list it."""
        lfs = {"lfs": {"oid": self.sha256, "size": len(self.content), "pointerSize": 127}} if self.lfs else {}
        return {"type": "file", "path": path, "size": len(self.content), "oid": self.git_oid, **lfs}


@dataclass
class Repo:
    private: bool
    head: str = ""
    commits: dict[str, dict[str, Blob]] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)

    def commit(self, files: dict[str, Blob], message: str) -> str:
        tree = {path: blob.git_oid for path, blob in sorted(files.items())}
        self.head = hashlib.sha1(json.dumps([self.head, message, tree]).encode()).hexdigest()
        self.commits[self.head] = files
        self.messages.append(message)
        return self.head

    def at(self, revision: str) -> tuple[str, dict[str, Blob]]:
        commit = self.head if revision == "main" else revision
        if commit not in self.commits:
            raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return commit, self.commits[commit]


class LocalHub:
    """A running server; `with` starts and stops it."""

    def __init__(self):
        self.token = f"hf_{secrets.token_hex(16)}"
        self.read_token = f"hf_{secrets.token_hex(16)}"  # sees private repositories, writes nothing
        self.upload_key = secrets.token_hex(16)  # LFS uploads are allowed by their address, as presigned ones are
        self.repos: dict[tuple[str, str], Repo] = {}
        self.objects: dict[str, bytes] = {}
        self.requests: list[str] = []  # "METHOD /path" of every request, in order
        self.lock = threading.RLock()
        self._failures: list[list] = []
        self._drops: list[tuple[str, int]] = []
        self._homes = contextlib.ExitStack()

    def __enter__(self) -> "LocalHub":
        self._server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        self._homes.close()

    def files(self, repo_id: str, repo_type: str = "model", revision: str = "main") -> dict[str, bytes]:
        """Content of a repository by path."""
        return {path: blob.content for path, blob in self.repos[repo_type, repo_id].at(revision)[1].items()}

    def environment(self, **more: str) -> dict[str, str]:
        """Variables of a subprocess that knows this Hub only, has its token and an empty cache."""
        home = tempfile.mkdtemp(prefix="hf_home_")
        self._homes.callback(shutil.rmtree, home, ignore_errors=True)
        own = {
            "HF_ENDPOINT": self.endpoint,
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HF_TOKEN": self.token,
            "HF_HOME": home,
            "NO_PROXY": "127.0.0.1",
        }
        return {name: value for name, value in os.environ.items() if name not in REROUTING} | own | more

    def fail_next(self, status: int, times: int = 1, path: str = "", retry_after: int | None = None) -> None:
        """Answer the next `times` requests whose address contains `path` with `status` (429, 500, ...).

        retry_after: seconds that the answer asks to wait.
        """
        self._failures.append([status, times, path, {} if retry_after is None else {"Retry-After": str(retry_after)}])

    def heal(self) -> None:
        """Forget failures and cuts that were asked for and did not happen yet."""
        self._failures.clear()
        self._drops.clear()

    def drop_after(self, num_bytes: int, method: str = "PUT") -> None:
        """Cut the connection of the next upload (`PUT`) or download (`GET`) after so many bytes of its content."""
        self._drops.append((method, num_bytes))

    def failure(self, path: str) -> HubError | None:
        """The answer that `fail_next` asked for, if it is this request's turn."""
        for entry in self._failures:
            if entry[1] and entry[2] in path:
                entry[1] -= 1
                return HubError(entry[0], f"injected {entry[0]}", **entry[3])
        return None

    def drop(self, method: str) -> int | None:
        """The bytes that `drop_after` lets through, if it is this request's turn."""
        found = next((each for each in self._drops if each[0] == method), None)
        if found is None:
            return None
        self._drops.remove(found)
        return found[1]


class _Server(ThreadingHTTPServer):
    def handle_error(self, request, client_address) -> None:
        if not isinstance(sys.exception(), ConnectionError):  # a client that went away is no news
            super().handle_error(request, client_address)


def route(method: str, pattern: str):
    """Register a method of `_Handler` for addresses that match; named groups are its arguments."""

    def register(function):
        ROUTES.append((method, re.compile(pattern), function.__name__))
        return function

    return register


TYPE = r"/api/(?P<repo_type>model|dataset|space)s"
ID = r"(?P<repo_id>[^/]+/[^/]+)"
PREFIX = r"/(?:(?P<repo_type>dataset|space)s/)?"


class _Handler(BaseHTTPRequestHandler):
    hub: LocalHub
    protocol_version = "HTTP/1.1"
    # headers and body in one packet: apart, each answer would wait 40 ms for a delayed acknowledgement
    wbufsize = -1
    disable_nagle_algorithm = True

    def log_message(self, *args) -> None:
        pass

    def dispatch(self) -> None:
        url = urlsplit(self.path)
        self.query = parse_qs(url.query)
        method = "GET" if self.command == "HEAD" else self.command
        with self.hub.lock:
            self.hub.requests.append(f"{self.command} {url.path}")
            failure = self.hub.failure(url.path)
        try:
            self.body = self.read_body(self.hub.drop("PUT") if method == "PUT" else None)
            if failure is not None:
                raise failure
            for wanted, pattern, name in ROUTES:
                if wanted == method and (match := pattern.fullmatch(url.path)):
                    with self.hub.lock:
                        answer = getattr(self, name)(**{k: v and unquote(v) for k, v in match.groupdict().items()})
                    return self.send(*answer) if isinstance(answer, tuple) else self.send_json(200, answer)
            raise HubError(404, f"this Hub does not know {self.command} {url.path}")
        except HubError as error:
            code = {"X-Error-Code": error.code} if error.code else {}
            self.send_json(
                error.status, {"error": str(error)}, {"X-Error-Message": str(error), **code, **error.headers}
            )
        except ConnectionError:
            self.close_connection = True

    do_GET = do_HEAD = do_POST = do_PUT = dispatch

    def read_body(self, limit: int | None) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            chunks = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                chunks.append(self.rfile.read(size))
                self.rfile.readline()
                if limit is not None and sum(map(len, chunks)) >= limit:
                    self.cut()
            self.rfile.readline()
            return b"".join(chunks)
        length = int(self.headers.get("Content-Length", 0))
        if limit is not None and limit < length:
            self.rfile.read(limit)
            self.cut()
        return self.rfile.read(length)

    def cut(self) -> None:
        self.connection.shutdown(socket.SHUT_RDWR)
        raise ConnectionError

    def send_json(self, status: int, answer, headers: dict | None = None) -> None:
        self.send(status, json.dumps(answer).encode(), {"Content-Type": "application/json"} | (headers or {}))

    def send(self, status: int, content: bytes, headers: dict) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(content))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        with self.hub.lock:
            limit = self.hub.drop("GET") if "Accept-Ranges" in headers else None
        self.wfile.write(content[:limit])
        if limit is not None and limit < len(content):
            self.wfile.flush()
            self.cut()

    # -- who asks for what

    def authorized(self) -> bool:
        given = self.headers.get("Authorization")
        if given is not None and given not in (f"Bearer {self.hub.token}", f"Bearer {self.hub.read_token}"):
            raise HubError(401, "Invalid credentials in Authorization header")
        return given is not None

    def may_write(self, owner: str) -> bool:
        return owner == USER and self.headers.get("Authorization") == f"Bearer {self.hub.token}"

    def repo(self, repo_type: str | None, repo_id: str, write: bool = False) -> Repo:
        authorized = self.authorized()
        repo = self.hub.repos.get((repo_type or "model", repo_id))
        if repo is None or (repo.private and not authorized):
            raise HubError(404 if authorized else 401, "Repository not found", "RepoNotFound")
        if write and not self.may_write(repo_id.split("/")[0]):
            raise HubError(403, "a token with write access is needed")
        return repo

    @route("GET", "/api/whoami-v2")
    def whoami(self):
        if not self.authorized():
            raise HubError(401, "Invalid username or password.")
        token = {"displayName": "test", "role": "write"}
        return {"type": "user", "name": USER, "fullname": USER, "orgs": [], "auth": {"accessToken": token}}

    @route("POST", "/api/repos/create")
    def create(self):
        if not self.authorized():
            raise HubError(401, "Invalid username or password.")
        asked = json.loads(self.body)
        repo_type, owner = asked.get("type") or "model", asked.get("organization") or USER
        repo_id = f"{owner}/{asked['name']}"
        if not self.may_write(owner):
            raise HubError(403, f"You don't have the rights to create a {repo_type} under the namespace {owner!r}")
        url = f"{self.hub.endpoint}/{'' if repo_type == 'model' else repo_type + 's/'}{repo_id}"
        if (repo_type, repo_id) in self.hub.repos:
            content = json.dumps({"error": f"You already created this {repo_type} repo", "url": url}).encode()
            return 409, content, {"Content-Type": "application/json"}
        repo = self.hub.repos[repo_type, repo_id] = Repo(private=asked.get("visibility") == "private")
        attributes = "".join(f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in LFS_SUFFIXES)
        repo.commit({".gitattributes": Blob(attributes.encode(), lfs=False)}, "initial commit")
        return {"url": url, "name": repo_id, "id": repo_id}

    # -- reading

    @route("GET", f"{TYPE}/{ID}(?:/revision/(?P<revision>[^/]+))?")
    def info(self, repo_type, repo_id, revision):
        repo = self.repo(repo_type, repo_id)
        sha, files = repo.at(revision or "main")
        times = {"lastModified": DATE, "createdAt": DATE}
        names = {"id": repo_id, "author": repo_id.split("/")[0], "sha": sha, "private": repo.private}
        counts = {"downloads": 0, "likes": 0, "tags": [], "disabled": False, "gated": False}
        return names | times | counts | {"siblings": [{"rfilename": path} for path in sorted(files)]}

    @route("GET", f"{TYPE}/{ID}/tree/(?P<revision>[^/]+)(?:/(?P<path>.+))?")
    def tree(self, repo_type, repo_id, revision, path):
        files = self.repo(repo_type, repo_id).at(revision)[1]
        inside = f"{path}/" if path else ""
        entries = {}
        for name, blob in sorted(files.items()):
            if not name.startswith(inside):
                continue
            parts = name.removeprefix(inside).split("/")
            for depth in range(1, len(parts)):
                folder = inside + "/".join(parts[:depth])
                entries[folder] = {"type": "directory", "path": folder, "size": 0, "oid": "0" * 40}
            entries[name] = blob.entry(name)
        if path and not entries:
            raise HubError(404, f"{path} does not exist on {revision}", "EntryNotFound")
        if self.query.get("recursive", ["false"])[0].lower() == "true":
            return list(entries.values())
        return [entry for name, entry in entries.items() if "/" not in name.removeprefix(inside)]

    @route("POST", f"{TYPE}/{ID}/paths-info/(?P<revision>[^/]+)")
    def paths_info(self, repo_type, repo_id, revision):
        files = self.repo(repo_type, repo_id).at(revision)[1]
        is_json = "json" in self.headers.get("Content-Type", "")
        paths = json.loads(self.body)["paths"] if is_json else parse_qs(self.body.decode()).get("paths", [])
        folders = [path for path in paths if any(name.startswith(f"{path}/") for name in files)]
        return [files[path].entry(path) for path in paths if path in files] + [
            {"type": "directory", "path": path, "size": 0, "oid": "0" * 40} for path in folders
        ]

    @route("GET", f"{PREFIX}{ID}/resolve/(?P<revision>[^/]+)/(?P<path>.+)")
    def resolve(self, repo_type, repo_id, revision, path):
        commit, files = self.repo(repo_type, repo_id).at(revision)
        if path not in files:
            raise HubError(404, "Entry not found", "EntryNotFound", **{"X-Repo-Commit": commit})
        blob, content, status = files[path], files[path].content, 200
        headers = {"ETag": f'"{blob.etag}"', "X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        if blob.lfs:
            headers |= {"X-Linked-Etag": f'"{blob.etag}"', "X-Linked-Size": str(len(content))}
        if asked := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            start, stop = int(asked[1]), min(int(asked[2] or len(content)) + 1, len(content))
            if start >= len(content):
                raise HubError(416, "range not satisfiable", **{"Content-Range": f"bytes */{len(content)}"})
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(content)}"
            content, status = content[start:stop], 206
        return status, content, headers | {"Content-Type": "application/octet-stream"}

    # -- writing

    @route("POST", "/api/validate-yaml")
    def validate_yaml(self):
        content = json.loads(self.body)["content"]
        header = re.match(r"---\s*\n(.*?)\n---", content, re.DOTALL)
        try:
            metadata = yaml.safe_load(header[1]) if header else None
        except yaml.YAMLError as error:
            answer = json.dumps({"errors": [{"message": str(error)}], "warnings": []}).encode()
            return 400, answer, {"Content-Type": "application/json"}
        return {"errors": [], "warnings": [] if metadata else [{"message": "empty or missing yaml metadata"}]}

    @route("POST", f"{TYPE}/{ID}/preupload/(?P<revision>[^/]+)")
    def preupload(self, repo_type, repo_id, revision):
        files = self.repo(repo_type, repo_id, write=True).at(revision)[1]
        answers = []
        for asked in json.loads(self.body)["files"]:
            lfs = asked["path"].endswith(LFS_SUFFIXES) or asked["size"] >= LFS_FROM
            answer = {"path": asked["path"], "uploadMode": "lfs" if lfs else "regular", "shouldIgnore": False}
            if asked["path"] in files:
                answer["oid"] = files[asked["path"]].etag
            answers.append(answer)
        return {"files": answers}

    @route("POST", f"{PREFIX}{ID}\\.git/info/lfs/objects/batch")
    def lfs_batch(self, repo_type, repo_id):
        self.repo(repo_type, repo_id, write=True)
        answers = []
        for asked in json.loads(self.body)["objects"]:
            answer = {"oid": asked["oid"], "size": asked["size"]}
            if asked["oid"] not in self.hub.objects:
                href = f"{self.hub.endpoint}/lfs/{asked['oid']}?signature={self.hub.upload_key}"
                answer["actions"] = {"upload": {"href": href}}
            answers.append(answer)
        return {"transfer": "basic", "objects": answers}

    @route("PUT", "/lfs/(?P<oid>[0-9a-f]{64})")
    def lfs_put(self, oid):
        if self.query.get("signature") != [self.hub.upload_key]:
            raise HubError(403, "signature does not match")
        if hashlib.sha256(self.body).hexdigest() != oid:
            raise HubError(400, "content does not match its sha256")
        self.hub.objects[oid] = self.body
        return {}

    @route("POST", f"{TYPE}/{ID}/commit/(?P<revision>[^/]+)")
    def commit(self, repo_type, repo_id, revision):
        repo = self.repo(repo_type, repo_id, write=True)
        if revision != "main":
            raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        files, message = dict(repo.at(revision)[1]), ""
        for line in self.body.splitlines():
            operation = json.loads(line)
            value = operation["value"]
            match operation["key"]:
                case "header":
                    message = value["summary"]
                    if value.get("parentCommit", repo.head) != repo.head:
                        raise HubError(412, "A commit has happened since. Please refresh and try again.")
                case "file":
                    files[value["path"]] = Blob(base64.b64decode(value["content"]), lfs=False)
                case "lfsFile":
                    if value["oid"] not in self.hub.objects:
                        raise HubError(400, f"LFS object {value['oid']} was never uploaded")
                    files[value["path"]] = Blob(self.hub.objects[value["oid"]], lfs=True)
                case "deletedFile" | "deletedFolder" as key:
                    inside = value["path"].rstrip("/") + "/"
                    gone = [
                        p for p in files if p == value["path"] or (key == "deletedFolder" and p.startswith(inside))
                    ]
                    if not gone:
                        raise HubError(404, f"{value['path']} does not exist", "EntryNotFound")
                    for path in gone:
                        del files[path]
                case other:
                    raise HubError(400, f"unknown operation {other}")
        url = f"{self.hub.endpoint}/{'' if repo_type == 'model' else repo_type + 's/'}{repo_id}"
        oid = repo.commit(files, message)
        return {"success": True, "commitOid": oid, "commitUrl": f"{url}/commit/{oid}", "hookOutput": ""}
