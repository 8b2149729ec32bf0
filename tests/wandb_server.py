"""A stand-in for W&B's server: as much of its protocol as `wandb sync` speaks, in memory."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

PROJECT = {"id": "p", "name": "zhgpt", "entity": {"id": "e", "name": "someone"}}


class Server(ThreadingHTTPServer):
    """`files` is what was streamed, by run and file name: its lines, each at its offset."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.runs: dict[str, dict[str, Any]] = {}
        self.files: dict[str, dict[str, dict[int, str]]] = {}
        self.refused: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def lines(self, run: str, name: str) -> list[dict[str, Any]]:
        lines = self.files.get(run, {}).get(name, {})
        return [json.loads(lines[offset]) for offset in sorted(lines)]

    def bucket(self, run: str) -> dict[str, Any]:
        """A run as the server describes it: how far it has come is what a piece goes on from."""
        known, history = self.runs[run], self.lines(run, "wandb-history.jsonl")
        summary = self.lines(run, "wandb-summary.json")
        return known | {
            "historyLineCount": len(history),
            "eventsLineCount": len(self.lines(run, "wandb-events.jsonl")),
            "logLineCount": 0,
            "historyTail": json.dumps([json.dumps(line) for line in history[-1:]]),
            "eventsTail": "[]",
            "summaryMetrics": json.dumps(summary[-1] if summary else {}),
            "wandbConfig": json.dumps({"t": 1}),  # without it a run counts as never begun
            "tags": [],
        }


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *_: Any) -> None:
        pass

    def do_PUT(self) -> None:
        self._body()
        self._answer({})

    def do_GET(self) -> None:
        self._answer({})

    def do_POST(self) -> None:
        body = self._body()
        if self.path.endswith("file_stream"):
            self._store(self.path.split("/")[-2], json.loads(body).get("files") or {})
            self._answer({})
        elif self.path.endswith("graphql"):
            asked = json.loads(body)
            self._answer({"data": self._asked(asked["query"], asked.get("variables") or {})})
        else:
            self._answer({})

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _answer(self, content: Any) -> None:
        text = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def _store(self, run: str, files: dict[str, Any]) -> None:
        for name, part in files.items():
            kept = self.server.files.setdefault(run, {}).setdefault(name, {})
            for number, line in enumerate(part["content"]):
                kept[part["offset"] + number] = line

    def _asked(self, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        if "upsertBucket" in query:
            return {"upsertBucket": {"bucket": self._upsert(variables), "inserted": True}}
        if "RunResumeStatus" in query:
            run = variables.get("name")
            known = self.server.bucket(run) if run in self.server.runs else None
            return {"model": PROJECT | {"bucket": known}}
        if "viewer" in query:
            viewer = {"id": "v", "entity": "someone", "username": "someone", "flags": "{}"}
            return {"viewer": viewer | {"teams": {"edges": []}}}
        if "createRunFiles" in query:
            files = [{"name": n, "uploadUrl": self.server.url} for n in variables.get("files", [])]
            run = {"runID": "r", "uploadHeaders": [], "files": files}
            return {"createRunFiles": run}
        if "createArtifact" in query:
            sequence = {"id": "s", "latestArtifact": {"id": "a", "versionIndex": 0}}
            made = {"id": "a", "state": "COMMITTED", "artifactSequence": sequence}
            return {"createArtifact": {"artifact": made}}
        if "serverInfo" in query:
            return {"serverInfo": {"features": []}}
        self.server.refused.append(query.split("{")[0].strip())
        return {}

    def _upsert(self, variables: dict[str, Any]) -> dict[str, Any]:
        name = variables["name"]
        known = self.server.runs.setdefault(name, {"id": f"id-{name}", "name": name})
        known |= {"displayName": variables.get("displayName"), "sweepName": None}
        known |= {"config": variables.get("config") or known.get("config") or "{}"}
        return self.server.bucket(name) | {"project": PROJECT}


@contextmanager
def serving() -> Iterator[Server]:
    server = Server()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
