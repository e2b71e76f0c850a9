"""A stand-in for the Hugging Face Hub on the loopback: repositories of models, in memory."""

from __future__ import annotations

import base64
import hashlib
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit


class Hub(ThreadingHTTPServer):
    """`repos`: files by name, of each repository; `asked`: the files that were downloaded."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answers)
        self.repos: dict[str, dict[str, bytes]] = {}
        self.asked: list[str] = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


class Answers(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *_: Any) -> None:
        pass

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = urlsplit(self.path).path.strip("/").split("/")
        if parts[1:] == ["repos", "create"]:
            told = json.loads(body)
            name = f"{told.get('organization') or 'me'}/{told['name']}"
            self.server.repos.setdefault(name, {})
            self.say({"url": f"{self.server.url}/{name}"})
        elif parts[1] == "validate-yaml":
            self.say({"errors": [], "warnings": []})
        elif "preupload" in parts:
            files = json.loads(body)["files"]
            self.say({"files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files]})
        else:
            repo = self.server.repos["/".join(parts[2:4])]
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    repo[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
                elif line["key"] == "deletedFile":
                    del repo[line["value"]["path"]]
            oid = self.commit(repo)
            url = f"{self.server.url}/{'/'.join(parts[2:4])}/commit/{oid}"
            self.say({"success": True, "commitOid": oid, "commitUrl": url})

    def do_GET(self) -> None:
        parts = [unquote(part) for part in urlsplit(self.path).path.strip("/").split("/")]
        about = parts[0] == "api"
        name = "/".join(parts[2:4] if about else parts[:2])
        repo = self.server.repos.get(name)
        if repo is None:
            self.say({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})
        elif "tree" in parts:
            self.say([{"type": "file", "path": f, "size": len(c), "oid": etag(c)} for f, c in repo.items()])
        elif about:
            self.say({"id": name, "sha": self.commit(repo), "siblings": [{"rfilename": file} for file in repo]})
        else:
            file = "/".join(parts[4:])
            content = repo[file]
            if self.command == "GET":
                self.server.asked.append(file)
            self.say(content, 200, {"ETag": f'"{etag(content)}"', "X-Repo-Commit": self.commit(repo)})

    do_HEAD = do_GET

    def commit(self, repo: dict[str, bytes]) -> str:
        return hashlib.sha1(repr(sorted(repo.items())).encode()).hexdigest()

    def say(self, content: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def etag(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()
