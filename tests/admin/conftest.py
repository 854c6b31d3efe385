"""A small admin server in a thread: what the command line talks to in these tests."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from meshsvc.admin.cli.main import main


class FakeAdmin:
    """Answers by (method, path) from ``answers``: (status, value); records what it was asked."""

    def __init__(self):
        self.answers = {}
        self.asked = []
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self):
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                fake.asked.append((self.command, self.path, json.loads(body or b"null")))
                status, value = fake.answers.get((self.command, self.path), (404, None))
                data = value if isinstance(value, bytes) else json.dumps(value).encode() + b"\n"
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST = answer  # noqa: N815

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        self.thread.start()

    def error(self, method, path, status, kind):
        """Answer with a typed error."""
        self.answers[method, path] = (status, {"error": {"kind": kind, "text": "because"}})

    def close(self):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def fake():
    """A fake admin server that lives as long as the test."""
    fake = FakeAdmin()
    yield fake
    fake.close()


@pytest.fixture
def run_cli(fake, capsys, monkeypatch):
    """Runs a command against the fake: (exit code, stdout, stderr)."""
    monkeypatch.setenv("MESHSVC_ADMIN", fake.url)

    def run(*arguments):
        try:
            code = main(arguments)
        except SystemExit as ended:
            code = ended.code
        out, err = capsys.readouterr()
        return code, out, err

    return run
