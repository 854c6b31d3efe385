"""The pure parts of the admin side: JSON, hosts, targets, metrics text."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from meshsvc import errors
from meshsvc.admin.answers import Problem, host_served, problem_of, read_object, to_json
from meshsvc.admin.metrics import expose
from meshsvc.admin.nodeview import shard_row
from meshsvc.admin.targets import Target, parse_target
from meshsvc.counters import LATENCY_BUCKETS_S, Counters

# --- JSON --------------------------------------------------------------------------------------


def test_values_of_cbor_become_json():
    """Bytes, odd keys, tuples, infinities and broken text all have a JSON form."""
    value = {b"k": b"\xff", 1: (1, 2), None: float("inf"), "deep": {"x": {True: "\ud800"}}}
    assert json.loads(to_json(value)) == {
        "k": {"base64": "/w=="},
        "1": [1, 2],
        "None": "inf",
        "deep": {"x": {"True": "\ud800"}},
    }


CBOR_LIKE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.binary(), inner),
    max_leaves=20,
)


@settings(deadline=None)  # the machine may be busy
@given(CBOR_LIKE)
def test_every_payload_is_one_line_of_json(value):
    """No value a node may send breaks the JSON, or its line."""
    text = to_json(value)
    json.loads(text, parse_constant=pytest.fail)
    assert b"\n" not in text


def test_deep_values_are_cut():
    """Nesting that no message can have does not exhaust the stack."""
    value = []
    for _ in range(10_000):
        value = [value]
    assert b'"' in to_json(value)


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"[]", b"5", b"[" * 100_000, b'{"a": 1}'])
def test_a_body_without_its_keys_is_a_problem(body):
    """What is no object with the required keys is a 400."""
    with pytest.raises(Problem) as caught:
        read_object(body, "target")
    assert caught.value.status == 400


def test_only_expected_errors_have_a_problem():
    """A fault of this program has no polite form."""
    assert problem_of(ValueError("x")) is None
    found = problem_of(errors.NoSuchTarget("no n9"))
    assert (found.status, found.kind, found.text) == (404, "NoSuchTarget", "no n9")
    assert problem_of(NotImplementedError()).status == 501


def test_every_call_error_has_a_status():
    """Each kind maps to a status that tells whether trying again can help."""
    for kind, error in errors.CALL_ERRORS.items():
        made = error("t", "x") if kind == "HandlerFailed" else error("x")
        assert (problem_of(made).status in (503, 504)) >= made.retriable


# --- hosts -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "served"),
    [
        (None, True),
        ("127.0.0.1", True),
        ("127.0.0.1:7701", True),
        ("[::1]:7701", True),
        ("10.0.0.7:7701", True),
        ("localhost", True),
        ("LOCALHOST.:80", True),
        ("n1:7701", True),
        ("n2:7701", False),
        ("evil.example", False),
        ("127.0.0.1.evil.example", False),
        ("localhost.evil.example", False),
        ("", False),
        ("::1", False),
        ("a b", False),
        ("127.0.0.1:x", False),
    ],
)
@pytest.mark.contract("OPS-4")
def test_only_hosts_of_this_node_are_served(host, served):
    """IP literals, localhost and the node's own name, and nothing that looks like them."""
    assert host_served(host, {"n1"}) is served


# --- targets -----------------------------------------------------------------------------------


@pytest.mark.contract("VERB-1")
@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("n1", Target("node", "n1")),
        ("n1/0", Target("shard", "n1", 0)),
        ("n1/255", Target("shard", "n1", 255)),
        ("key:user:17", Target("key", key="user:17")),
        ("key:a/b", Target("key", key="a/b")),
        ("all", Target("all")),
    ],
)
def test_targets_are_read(text, target):
    """A node, one of its shards, the owner of a key, everyone."""
    assert parse_target(text) == target


@pytest.mark.parametrize("text", ["", "N1", "n1/", "n1/x", "n1/256", "n1/1/1", "key:", "a b"])
def test_other_texts_are_no_target(text):
    """The error says what may be written."""
    with pytest.raises(ValueError, match=r"target|key|shards"):
        parse_target(text)


# --- metrics -----------------------------------------------------------------------------------


def families(*processes):
    """The exposed text, read back by the reference parser."""
    text = expose(processes).decode()
    return {family.name: family for family in text_string_to_metric_families(text)}


def test_shards_share_a_family_and_differ_by_label():
    """Rows of all processes are grouped by name, as the format demands."""
    one, two = Counters(), Counters()
    one.drop("Envelope", "full", 2)
    two.drop("Envelope", "full", 3)
    two.gauge("reactor_lag_seconds", 0.25)
    found = families(({"shard": "0"}, one.snapshot()), ({"shard": "1"}, two.snapshot()))
    drops = {sample.labels["shard"]: sample.value for sample in found["frame_drops"].samples}
    assert drops == {"0": 2.0, "1": 3.0}
    assert found["reactor_lag_seconds"].samples[0].labels == {"shard": "1"}


def test_histograms_are_cumulative():
    """Buckets count everything up to their bound; sum and count come with them."""
    counters = Counters()
    for seconds in (0.0001, 0.003, 0.003, 99.0):
        counters.histogram("ask_seconds", verb="x").observe(seconds)
    samples = families(({}, counters.snapshot()))["ask_seconds"].samples
    buckets = [s.value for s in samples if s.name == "ask_seconds_bucket"]
    assert len(buckets) == len(LATENCY_BUCKETS_S) + 1
    assert (buckets[0], buckets[3], buckets[-1]) == (1.0, 3.0, 4.0)
    assert {s.name: s.value for s in samples if s.name.endswith(("count", "sum"))} == {
        "ask_seconds_count": 4.0,
        "ask_seconds_sum": pytest.approx(99.0061),
    }


def test_labels_are_escaped():
    """Quotes, backslashes and line ends in a label do not break the text."""
    counters = Counters()
    counters.add("x_total", reason='a"b\\c\nd')
    assert families(({}, counters.snapshot()))["x"].samples[0].labels["reason"] == 'a"b\\c\nd'


@pytest.mark.parametrize(
    "row",
    [
        [],
        ["z", "a", [], 1],
        ["c", "bad name", [], 1],
        ["c", "a", [["bad label", "x"]], 1],
        ["c", "a", [], "x"],
        ["h", "a", [], [[1], 1, 1]],
        ["g", "y_total", [], 1],
    ],
)
def test_a_row_that_fits_nothing_is_counted_and_left_out(row):
    """One odd row does not cost the scrape; it is counted so that somebody looks."""
    counters = Counters()
    counters.add("y_total")
    found = families(({}, [*counters.snapshot(), row]))
    assert found["y"].samples[0].value == 1.0
    assert found["admin_metrics_skipped"].samples[0].value == 1.0


def test_a_shard_without_a_process_has_no_pid():
    """Not 0, which `kill` takes for the caller's own group; a CPU of none is none either."""
    row = shard_row([1, 0, "waiting", 2, 3, 0.0, -1, 0])
    assert (row["pid"], row["cpu"], row["connections"]) == (None, None, 0)
    row = shard_row([0, 4711, "running", 1, 0, 0.5, 0, 9])
    assert (row["pid"], row["cpu"], row["lag_ms"]) == (4711, 0, 0.5)
