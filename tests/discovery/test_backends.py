"""The backends that come with meshsvc but dns: what they read, and when it goes wrong."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, fail, maybeDeferred, succeed
from zope.interface.verify import verifyObject

from meshsvc.discovery.addresses import read_answer
from meshsvc.discovery.backends.options import KINDS, DnsOptions, read_options
from meshsvc.discovery.backends.service import FileBackend, own_backend, read_bounded
from meshsvc.discovery.backends.texts import split_lines, split_list
from meshsvc.interfaces import IDiscoveryBackend
from meshsvc.model import Address

A, B, C = (Address(f"10.0.0.{number}", 7700) for number in (1, 2, 3))


def at_once(call, *args):
    return maybeDeferred(call, *args)


def result(deferred):
    """What a Deferred that has fired holds."""
    got = []
    deferred.addBoth(got.append)
    assert got, "it has not fired"
    return got[0]


def started(name, options, seeds=(), environ=None):
    backend = own_backend(name, seeds, at_once, environ or {})
    backend.start(options, None)
    return backend


def found(backend):
    return read_answer(result(backend.get_nodes())).addresses


@pytest.mark.contract("DISC-5")
@pytest.mark.parametrize("name", sorted(KINDS))
def test_each_is_a_backend_and_found_by_its_name(name):
    """static, file, env and dns provide the interface; another name is a plugin's."""
    backend = own_backend(name, (), at_once, {})
    assert verifyObject(IDiscoveryBackend, backend)
    assert backend.name == name
    assert own_backend("consul", (), at_once) is None


@pytest.mark.contract("DISC-5")
def test_static_is_the_seeds_and_its_own_addresses():
    """An existing config with [seeds] addresses keeps its meaning."""
    assert found(started("static", {}, (A,))) == (A,)
    assert found(started("static", {"addresses": [str(B), str(A)]}, (A,))) == (A, B)


@pytest.mark.contract("DISC-5")
def test_a_file_is_read_anew_each_time(tmp_path):
    """CR, LF, spaces and comments; it appears later, grows, shrinks, is emptied."""
    path = tmp_path / "peers"
    backend = started("file", {"path": str(path)})
    assert result(backend.get_nodes()).check(FileNotFoundError)
    path.write_bytes(
        b"\xef\xbb\xbf# ours\r\n10.0.0.1:7700 10.0.0.2:7700 # two\r\n\r\n\r10.0.0.3:7700"
    )
    assert found(backend) == (A, B, C)
    path.write_bytes(b"10.0.0.2:7700\tnonsense\n#10.0.0.1:7700\n")
    answer = read_answer(result(backend.get_nodes()))
    assert (answer.addresses, answer.refused) == ((B,), 1)
    path.write_bytes(b"")
    assert found(backend) == ()
    path.write_bytes(b"\xff\xfe\x00garbage\x80")
    assert read_answer(result(backend.get_nodes())).useless


@pytest.mark.contract("DISC-5")
def test_a_file_is_not_read_without_end(tmp_path):
    """Over a mebibyte is no list of peers; a directory or device is an error as well."""
    path = tmp_path / "peers"
    path.write_bytes(b" " * (1024 * 1024 + 1))
    with pytest.raises(OSError, match="not a list of peers"):
        read_bounded(str(path))
    with pytest.raises(IsADirectoryError):
        read_bounded(str(tmp_path))
    with pytest.raises(OSError, match="not a list of peers"):
        read_bounded("/dev/zero")


@pytest.mark.contract("DISC-5", "DISC-3")
def test_a_file_system_that_hangs_takes_one_thread_only():
    """While a read has not ended no other is begun; then the file is read again."""
    reads = []

    def off_reactor(call, *args):
        reads.append(Deferred())
        return reads[-1]

    backend = FileBackend(off_reactor)
    backend.start({"path": "/net/peers"}, None)
    backend.get_nodes().addErrback(lambda failure: None).cancel()
    assert result(backend.get_nodes()).check(OSError)
    assert len(reads) == 1
    reads[0].callback(())
    backend.get_nodes()
    assert len(reads) == 2


def test_the_file_is_read_off_the_reactor():
    """What reads is handed over, never called."""
    backend = FileBackend(lambda call, *args: succeed(("10.0.0.1:7700",)), read=pytest.fail)
    backend.start({"path": "/nowhere"}, None)
    assert found(backend) == (A,)
    backend = FileBackend(lambda call, *args: fail(PermissionError("no")))
    backend.start({"path": "/nowhere"}, None)
    assert result(backend.get_nodes()).check(PermissionError)


@pytest.mark.contract("DISC-5")
def test_a_variable_holds_a_list():
    """Commas or white space; unset is an error, empty is nobody."""
    environ = {"PEERS": "10.0.0.1:7700, 10.0.0.2:7700\n10.0.0.3:7700", "NONE": ""}
    assert found(started("env", {"variable": "PEERS"}, environ=environ)) == (A, B, C)
    assert found(started("env", {"variable": "NONE"}, environ=environ)) == ()
    unset = result(started("env", {}, environ=environ).get_nodes())
    assert unset.getErrorMessage() == "the environment variable MESHSVC_PEERS is not set"


WRONG = [
    ("static", {"adresses": []}, "adresses: no option of backend 'static', which has addresses"),
    ("static", {"addresses": ["x"]}, "addresses: 'x' is not an address"),
    ("static", {"addresses": "10.0.0.1:7700"}, "addresses: not a list"),
    ("static", {"addresses": ["10.0.0.1:0"]}, "port 0"),
    ("file", {}, "path: missing"),
    ("file", {"path": "peers"}, "path: 'peers' is not an absolute path"),
    ("env", {"variable": ""}, "variable: '' is not a text, or empty"),
    ("env", {"variable": "A=B"}, "not the name of an environment variable"),
    ("dns", {}, "names: missing"),
    ("dns", {"names": ["a b"]}, "names: 'a b' is not a domain name"),
    ("dns", {"names": ["x" * 64]}, "is not a domain name"),
    ("dns", {"names": ["a..b"]}, "is not a domain name"),
    ("dns", {"names": ["x"] * 101}, "names: 101 entries, at most 100"),
    ("dns", {"names": ["x"], "port": 0}, "port: 0 is not a port"),
    ("dns", {"names": ["x"], "port": True}, "port: True is not a port"),
    ("dns", {"names": ["x"], "servers": ["y:z"]}, "servers: 'y:z' is not an address"),
]


@pytest.mark.parametrize(("backend", "options", "text"), WRONG)
def test_wrong_options_say_what_is_wrong(backend, options, text):
    """Which option, what it is, what it should be."""
    with pytest.raises(ValueError, match=re.escape(text)):
        read_options(backend, options)


def test_all_that_is_wrong_is_said_at_once():
    """One line each."""
    with pytest.raises(ValueError, match=r"names: .*\nport: .*\nsearch: "):
        read_options("dns", {"names": 1, "port": "x", "search": []})


def test_right_options_are_read():
    """A server without a port has that of DNS."""
    got = read_options("dns", {"names": ["a.example", "a.example"], "servers": ["10.0.0.1"]})
    assert got == DnsOptions(names=("a.example",), servers=(Address("10.0.0.1", 53),))


RUBBISH = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda each: st.lists(each) | st.tuples(each) | st.dictionaries(st.text(), each),
    max_leaves=20,
)


@pytest.mark.contract("DISC-3", "SIM-4")
@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(answer=RUBBISH, text=st.text(), data=st.binary())
def test_whatever_is_read_is_an_answer(answer, text, data):
    """No value a backend may answer, and nothing a file may hold, raises."""
    words = (*split_lines(text), *split_list(text), *split_lines(data.decode("utf-8", "replace")))
    for each in (answer, words, [*words, "10.0.0.1:7700"]):
        read = read_answer(each)
        assert len(read.notes) <= 16
        assert all(0 < address.port <= 65535 for address in read.addresses)
