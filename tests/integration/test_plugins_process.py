"""Applications that misbehave in a running node: listed, and nothing else happens."""

import os
import textwrap

import pytest
from dev_cluster import MESHSVC, DevCluster, wait_until

APPS = {
    "bad_import_plugin": "raise RuntimeError('cannot import this')\n",
    "mixed_plugin": """
        from twisted.application.service import Service
        from twisted.plugin import IPlugin
        from zope.interface import implementer

        from meshsvc.interfaces import IMeshApplication


        class Start(Service):
            def startService(self):
                raise OSError("no port for me")


        class Verbs(Service):
            def __init__(self, mesh):
                self.mesh = mesh

            def startService(self):
                super().startService()
                self.mesh.verbs.register("bad.handler", lambda call: 1 / 0)
                self.mesh.verbs.register("bad.reply", lambda call: {1, 2, 3})
                self.mesh.verbs.register("good.tag", self.tag)

            def tag(self, call):
                return self.mesh.members.tag("zone", "eu")


        @implementer(IPlugin, IMeshApplication)
        class App:
            def __init__(self, name, make):
                self.name, self.make_service = name, make


        bad_start = App("bad-start", lambda mesh: Start())
        bad_make = App("bad-make", lambda mesh: mesh.no_such_attribute)
        good = App("good", Verbs)
    """,
}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """Two nodes that find broken plugins on their path."""
    path = tmp_path_factory.mktemp("plugins")
    (path / "twisted" / "plugins").mkdir(parents=True)
    for name, code in APPS.items():
        (path / "twisted" / "plugins" / f"{name}.py").write_text(textwrap.dedent(code))
    old = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = str(path) + (os.pathsep + old if old else "")
    try:
        with DevCluster(tmp_path_factory.mktemp("dev"), nodes=2) as running:
            yield running
    finally:
        os.environ.pop("PYTHONPATH")
        if old is not None:
            os.environ["PYTHONPATH"] = old


def test_broken_plugins_are_listed_with_their_tracebacks(cluster):
    """meshsvc plugins names each with what it raised; the node formed all the same."""
    assert MESHSVC
    rows = {row["name"]: row for row in cluster.nodes[0].get("plugins")}
    assert rows["good"]["state"] == "running"
    for name, text in {
        "bad_import_plugin": "cannot import this",
        "bad-start": "no port for me",
        "bad-make": "no_such_attribute",
    }.items():
        assert rows[name]["state"] == "failed"
        assert text in rows[name]["error"]
        assert "Traceback" in rows[name]["error"]
    shown = cluster.nodes[0].cli("plugins")
    assert shown.returncode in (0, 1)
    assert "no port for me" in shown.stdout + shown.stderr


@pytest.mark.contract("VERB-2")
def test_a_handler_that_raises_fails_its_caller_only(cluster):
    """HandlerFailed with type and text, a reply that is no CBOR the same; links stay."""
    n1, _ = cluster.nodes
    epoch = cluster.formed()
    error = n1.call("n2", "bad.handler")["error"]
    assert error["kind"] == "HandlerFailed"
    assert "ZeroDivisionError" in error["text"]
    error = n1.call("n2/1", "bad.reply")["error"]
    assert error["kind"] == "HandlerFailed"
    assert "NotEncodable" in error["text"]
    assert n1.call("n2", "sys.echo", 1)["reply"] == 1
    assert cluster.formed() == epoch


def test_a_tag_set_by_an_application_is_seen_everywhere(cluster):
    """mesh.members.tag on any shard is gossiped to all nodes."""
    n1, n2 = cluster.nodes
    n1.call("n1/1", "good.tag")
    wait_until(
        lambda: (
            [row["tags"].get("zone") for row in n2.get("members") if row["name"] == "n1"] == ["eu"]
        ),
        5,
        cluster.describe,
    )
