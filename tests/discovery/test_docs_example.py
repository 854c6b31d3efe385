"""The backend that docs/discovery.md shows, against an API that answers like Consul's."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import ensureDeferred, maybeDeferred
from twisted.web.resource import Resource
from twisted.web.server import Site
from zope.interface.verify import verifyObject

from meshsvc.discovery.addresses import read_answer
from meshsvc.interfaces import IDiscoveryBackend
from meshsvc.model import Address

PAGE = Path(__file__).parents[2] / "docs" / "discovery.md"


class Health(Resource):
    isLeaf = True  # noqa: N815 (twisted.web's name)

    def render_GET(self, request):
        assert request.uri == b"/v1/health/service/sessions?passing"
        request.setHeader("connection", "close")
        own = {"Node": {"Address": "10.0.0.1"}, "Service": {"Address": "", "Port": 7700}}
        other = {"Node": {"Address": "x"}, "Service": {"Address": "10.0.0.2", "Port": 7701}}
        return json.dumps([own, other]).encode()


@pytest.mark.contract("DISC-5")
@pytest_twisted.inlineCallbacks
def test_the_example_of_the_docs_works():
    """It provides the interface and finds what the API lists."""
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    (code,) = [block for block in blocks if "ConsulBackend" in block]
    names = {}
    exec(compile(code, str(PAGE), "exec"), names)
    backend = names["ConsulBackend"]()
    port = reactor.listenTCP(0, Site(Health()), interface="127.0.0.1")
    try:
        url = f"http://127.0.0.1:{port.getHost().port}"
        backend.start({"service": "sessions", "url": url}, reactor)
        assert verifyObject(IDiscoveryBackend, backend)
        answer = yield ensureDeferred(backend.get_nodes())
    finally:
        yield maybeDeferred(port.stopListening)
    found = read_answer(answer).addresses
    assert found == (Address("10.0.0.1", 7700), Address("10.0.0.2", 7701))
