"""A process that looks to ``meshsvc dev`` like a node: python fake_node.py CONFIG.

It serves the admin paths that dev asks, listens on its peer port, and calls another node
alive while that one's peer port can be dialed. SIGTERM ends it with 0.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from meshsvc.node.config import load


def main():
    path = Path(sys.argv[1])
    config = load(path)
    peer = config.listen.peer
    listening = socket.create_server((peer.host, peer.port))

    def alive(name):
        at = load(path.parents[1] / name / path.name).listen.peer
        try:
            socket.create_connection((at.host, at.port), timeout=1).close()
        except OSError:
            return False
        return True

    def members():
        return [{"name": n, "status": "alive" if alive(n) else "dead"} for n in config.mesh.roster]

    def mesh():
        others = [name for name in config.mesh.roster if name != config.node.name]
        links = [{"peer": name, "state": "up", "epoch": "1.1"} for name in others if alive(name)]
        return {"epoch": "1.1", "state": "formed", "roster": [], "links": links}

    answers = {
        "/v1/status": lambda: {
            "name": config.node.name,
            "cluster": config.node.cluster,
            "pid": os.getpid(),
            "ready": True,
        },
        "/v1/members": members,
        "/v1/mesh": mesh,
        "/v1/shards": lambda: [{"index": 0, "pid": os.getpid()}],
    }

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            body = json.dumps(answers[self.path]()).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    admin = config.listen.admin
    server = ThreadingHTTPServer((admin.host, admin.port), Handler)
    with listening:
        server.serve_forever()


main()
