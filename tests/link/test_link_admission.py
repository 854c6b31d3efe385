"""admission.judge: who may have a link, and the words for who may not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from link_net import CONTROL, DATA, E1, E2, node, roster

from meshsvc.link.admission import (
    LASTING,
    Known,
    Live,
    Local,
    Plea,
    heals,
    judge,
    judge_again,
    malformed,
)
from meshsvc.link.pairing import LinkKey
from meshsvc.model import NO_EPOCH, Epoch, Incarnation, NodeId, NodeInfo
from meshsvc.wire.messages import Hello, Refusal

ME, PEER = node(1), node(2)


def hello(of: Local = PEER, **changes: Any) -> Hello:
    greeting = Hello(
        *(of.protocol_min, of.protocol_max, of.features, of.cluster, of.node_id, of.name),
        *(of.incarnation, of.address.host, of.address.port, of.shards),
        *(int(CONTROL), 0, 0, 1, ""),
    )
    return replace(greeting, **changes)


def verdict(
    peer: Hello,
    known: Known | None = None,
    me: Local = ME,
    *,
    dialing: bool = False,
    expect: str = "",
) -> Refusal | None:
    known = known or Known()
    return judge(Plea(me, peer, known, known.epoch, dialing, expect))


def reason(*args: Any, **rest: Any) -> str | None:
    refusal = verdict(*args, **rest)
    return refusal.reason if refusal is not None else None


def live(peer: Local, by_us: bool, incarnation: int = 10, proven: bool = True) -> Any:
    ends = (ME.node_id, peer.node_id) if by_us else (peer.node_id, ME.node_id)
    found = NodeInfo(peer.node_id, peer.name, Incarnation(incarnation), peer.address, 1)
    return lambda *_: Live(found, LinkKey(*ends, 1), proven)


def test_a_stranger_of_the_cluster_is_welcome() -> None:
    """With nothing against it, a peer gets its link."""
    assert verdict(hello()) is None
    assert verdict(hello(), dialing=True, expect=PEER.node_id) is None


@pytest.mark.contract("WIRE-4")
def test_versions_must_overlap() -> None:
    """No overlap of protocol ranges: refused, the text names both ranges."""
    me = replace(ME, protocol_min=2, protocol_max=3)
    assert reason(hello(protocol_max=2), me=me) is None
    refusal = verdict(hello(protocol_min=4, protocol_max=9), me=me)
    assert refusal is not None
    assert refusal.reason == "version"
    assert "4 to 9" in refusal.text
    assert "2 to 3" in refusal.text


@pytest.mark.contract("WIRE-4")
def test_a_node_without_an_enabled_feature_is_refused() -> None:
    """The refusal names what is missing; features nobody enabled do not matter."""
    known = Known(enabled=frozenset({"lease", "zip"}))
    refusal = verdict(hello(features=("zip", "other")), known)
    assert refusal is not None
    assert refusal.reason == "feature"
    assert "lease" in refusal.text
    assert verdict(hello(features=("zip", "lease", "other")), known) is None


@pytest.mark.contract("LINK-2")
def test_each_identity_that_is_wrong_has_its_reason() -> None:
    """Wrong cluster, self-dial, wrong node, removed, name collision: each by its name."""
    other = NodeId("f" * 32)
    assert reason(hello(cluster="prod")) == "wrong-cluster"
    assert reason(hello(ME)) == "self-dial"
    assert reason(hello(), dialing=True, expect=other) == "wrong-node"
    assert reason(hello(expected=other)) == "wrong-node"
    assert reason(hello(), Known(removed=frozenset({PEER.node_id}))) == "removed"
    assert reason(hello(), Known(names={"n2": other})) == "name-collision"
    assert reason(hello(name=ME.name)) == "name-collision"
    assert reason(hello(), Known(names={"n2": PEER.node_id})) is None


@pytest.mark.contract("MESH-7", "LINK-2")
def test_an_earlier_life_is_refused_by_name() -> None:
    """A lower incarnation than a live link's, a remembered one or the roster's is refused."""
    known = Known(incarnations={PEER.node_id: Incarnation(11)})
    refusal = verdict(hello(), known)
    assert refusal is not None
    assert refusal.reason == "stale-incarnation"
    assert "n2" in refusal.text
    assert "11" in refusal.text
    assert reason(hello(), Known(live=live(PEER, True, 12))) == "stale-incarnation"
    assert reason(hello(incarnation=13), Known(live=live(PEER, True, 12))) is None
    assert reason(hello(ME, incarnation=11)) == "stale-incarnation"


@pytest.mark.contract("MESH-3")
def test_data_links_need_equal_epochs_and_refusals_name_both() -> None:
    """Lower and higher are told apart, the text and the numbers name both epochs."""
    known = Known(epoch=Epoch(2, 5))
    for theirs, expected in ((Epoch(2, 4), "epoch-low"), (Epoch(3, 1), "epoch-high")):
        data = hello(link_class=int(DATA), term=theirs.term, attempt=theirs.attempt)
        refusal = verdict(data, known)
        assert refusal is not None
        assert (refusal.reason, refusal.heals) == (expected, True)
        assert str(theirs) in refusal.text
        assert "2.5" in refusal.text
        assert (refusal.term, refusal.attempt) == (2, 5)
    assert reason(hello(link_class=int(DATA), term=2, attempt=5), known) is None


@pytest.mark.contract("MESH-6")
@pytest.mark.parametrize("theirs", [(0, 0), (0, 7), (7, 0)])
def test_an_epoch_that_was_never_minted_gets_no_data_link(theirs: tuple[int, int]) -> None:
    """Term or attempt 0 never matches, not even a node that has no epoch itself."""
    data = hello(link_class=int(DATA), term=theirs[0], attempt=theirs[1])
    assert reason(data, Known(epoch=NO_EPOCH)) == "epoch-low"
    assert reason(data, Known(epoch=E1)) == "epoch-low"


def test_data_links_are_for_the_roster() -> None:
    """Outside the roster, or in it with another life: refused, in a way that heals by itself
    unless the life is over."""
    data = hello(link_class=int(DATA), term=1, attempt=1)
    outside = Known(epoch=E1, roster=roster(E1, ME))
    inside = Known(epoch=E1, roster=roster(E1, ME, PEER))
    assert reason(data, outside) == "not-in-roster"
    assert reason(data, inside) is None
    assert reason(replace(data, incarnation=11), inside) == "not-in-roster"
    assert reason(replace(data, incarnation=9), inside) == "stale-incarnation"
    assert reason(hello(), outside) is None


def test_confirm_is_judged_without_the_epoch() -> None:
    """A moved epoch is agreed on in band; a changed roster or a removal still refuses."""
    data = hello(link_class=int(DATA), term=1, attempt=1)
    moved = Known(epoch=E2, roster=roster(E2, ME, PEER))
    assert judge_again(Plea(ME, data, moved, E1, False)) is None
    left_out = Known(epoch=E2, roster=roster(E2, ME))
    refusal = judge_again(Plea(ME, data, left_out, E1, False))
    assert refusal is not None
    assert refusal.reason == "not-in-roster"


@pytest.mark.contract("LINK-6")
def test_duplicates_are_refused_where_it_is_safe() -> None:
    """The dialer refuses whom it is linked to; the acceptor only the worse link of a dialer
    that knows whom it dials; neither on the strength of an unproven link."""
    known = Known(live=live(PEER, by_us=True))
    assert reason(hello(), known, dialing=True) == "duplicate"
    assert reason(hello(expected=ME.node_id), known) == "duplicate"
    assert reason(hello(), known) is None
    later = hello(expected=ME.node_id, dial=2)
    assert reason(later, Known(live=live(PEER, by_us=False))) is None
    unproven = Known(live=live(PEER, by_us=True, proven=False))
    assert reason(hello(expected=ME.node_id), unproven) is None
    assert reason(hello(), unproven, dialing=True) is None
    restarted = hello(incarnation=11, expected=ME.node_id)
    assert reason(restarted, known) is None


@pytest.mark.contract("LINK-2")
def test_what_lasts_does_not_heal() -> None:
    """A refusal says whether trying again soon can help."""
    assert not any(heals(each) for each in LASTING)
    assert all(heals(each) for each in ("duplicate", "epoch-low", "timeout", "stopping"))
    refusal = verdict(hello(cluster="prod"))
    assert refusal is not None
    assert refusal.heals is False


@pytest.mark.contract("MESH-6")
@pytest.mark.parametrize(
    "changes",
    [
        {"node_id": "x" * 32},
        {"node_id": "A" * 32},
        {"node_id": ""},
        {"name": ""},
        {"name": "n" * 1000},
        {"name": "bad\nname"},
        {"cluster": "c" * 1000},
        {"host": "\x1b[2J"},
        {"port": -1},
        {"port": 65536},
        {"incarnation": 0},
        {"incarnation": 2**63},
        {"shards": 0},
        {"shards": 257},
        {"link_class": 2},
        {"link_class": -1},
        {"term": -1},
        {"attempt": 2**64 - 1},
        {"dial": -1},
        {"expected": "me"},
        {"protocol_min": 3, "protocol_max": 2},
        {"features": ("a",) * 65},
        {"features": (1,)},
    ],
)
def test_values_that_no_node_has_are_malformed(changes: dict[str, Any]) -> None:
    """Out-of-range and unprintable values are found before any of them is used."""
    assert malformed(hello(**changes)) is not None
    assert malformed(hello()) is None
