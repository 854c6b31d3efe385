"""The Python clients ``etcd3gw`` (JSON) and ``aetcd`` (gRPC, asyncio), unmodified."""

from __future__ import annotations

import asyncio
import threading

import aetcd
import etcd3gw
import pytest
from etcd3gw.exceptions import Etcd3Exception
from processes import Ours

pytestmark = pytest.mark.contract("KV-5")


@pytest.fixture(scope="module")
def ours():
    server = Ours()
    yield server
    server.stop()


def test_etcd3gw_keys(ours: Ours) -> None:
    """Put, get, delete, compare and replace, transactions."""
    client = etcd3gw.client("127.0.0.1", ours.port)
    assert client.status()["leader"]
    assert client.members()
    assert client.put("g/1", "one")
    assert client.put("g/2", "two")
    assert client.get("g/1") == [b"one"]
    found = client.get_prefix("g/", sort_order="descend", sort_target="key")
    assert [value for value, _ in found] == [b"two", b"one"]
    assert not client.create("g/1", "other")
    assert client.create("g/3", "three")
    assert client.replace("g/1", "one", "uno")
    assert not client.replace("g/1", "one", "eins")
    assert client.get("g/1") == [b"uno"]
    assert client.delete("g/1")
    assert not client.delete("g/1")
    assert client.delete_prefix("g/")
    assert client.get_all() == []


def test_etcd3gw_leases_and_locks(ours: Ours) -> None:
    """Leases with keys, keep alive, and a lock that excludes."""
    client = etcd3gw.client("127.0.0.1", ours.port)
    lease = client.lease(ttl=60)
    client.put("gl", "x", lease=lease)
    assert lease.keys() == [b"gl"]
    assert lease.ttl() in {59, 60}
    assert lease.refresh() == 60
    assert lease.revoke()
    assert client.get("gl") == []
    with client.lock("gw", ttl=30) as lock:
        assert lock.is_acquired()
        assert not client.lock("gw", ttl=30).acquire()
    assert client.lock("gw", ttl=30).acquire()


def test_etcd3gw_watches(ours: Ours) -> None:
    """A watch over JSON hears a put that comes later."""
    client = etcd3gw.client("127.0.0.1", ours.port)
    events, cancel = client.watch("gwatch")
    put = threading.Timer(0.2, lambda: etcd3gw.client("127.0.0.1", ours.port).put("gwatch", "x"))
    put.start()
    event = next(iter(events))
    cancel()
    put.join()
    assert event["kv"]["value"] == b"x"


@pytest.mark.contract("KV-8")
def test_etcd3gw_errors(ours: Ours) -> None:
    """A refusal reaches the caller with etcd's text."""
    client = etcd3gw.client("127.0.0.1", ours.port)
    with pytest.raises(Etcd3Exception) as caught:
        client.put("", "x")
    assert "key is not provided" in caught.value.detail_text
    for size, text in ((1_600_000, "request is too large"), (2_200_000, "larger than max")):
        with pytest.raises(Etcd3Exception) as caught:
            client.put("g", "x" * size)
        assert text in caught.value.detail_text


def test_aetcd(ours: Ours) -> None:
    """Keys, ranges, transactions, leases, watches, locks and status through aetcd."""
    asyncio.run(asyncio.wait_for(_aetcd(ours.port), 60))


async def _aetcd(port: int) -> None:
    async with aetcd.Client(host="127.0.0.1", port=port) as client:
        await client.put(b"a/1", b"one")
        await client.put(b"a/2", b"two")
        assert (await client.get(b"a/1")).value == b"one"
        assert [kv.value for kv in await client.get_prefix(b"a/")] == [b"one", b"two"]
        assert await client.get(b"nothing") is None
        assert await client.replace(b"a/1", b"one", b"uno")
        assert not await client.replace(b"a/1", b"one", b"eins")
        done, _ = await client.transaction(
            compare=[client.transactions.value(b"a/1") == b"uno"],
            success=[client.transactions.put(b"a/1", b"ein")],
            failure=[client.transactions.delete(b"a/1")],
        )
        assert done
        lease = await client.lease(60)
        await client.put(b"a/3", b"x", lease=lease)
        assert await lease.remaining_ttl() in {59, 60}
        assert list(await lease.keys()) == [b"a/3"]
        await lease.revoke()
        assert await client.get(b"a/3") is None
        await _watch(client)
        async with client.lock(b"al", ttl=30) as lock:
            assert await lock.is_acquired()
        assert (await client.status()).leader
        assert [member async for member in client.members()]
        assert (await client.delete_prefix(b"a/")).deleted == 2
        await client.defragment()


async def _watch(client: aetcd.Client) -> None:
    watch = await client.watch_prefix(b"w/")
    for value in (b"1", b"2"):
        await client.put(b"w/k", value)
    await client.delete(b"w/k")
    seen = []
    async for event in watch:
        seen.append((event.kind, event.kv.value))
        if len(seen) == 3:
            break
    await watch.cancel()
    assert seen == [("PUT", b"1"), ("PUT", b"2"), ("DELETE", b"")]
