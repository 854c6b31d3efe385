"""The epoch store: never below what was saved, never a guess."""

from __future__ import annotations

import contextlib

import pytest

from meshsvc.errors import StartError
from meshsvc.model import NO_EPOCH, Epoch
from meshsvc.storage.counter import EpochNotGreater, EpochStore
from meshsvc.storage.files import RealFileSystem


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "epoch")


def test_starts_without_an_epoch(path):
    """No file means that no epoch was ever minted."""
    assert EpochStore(RealFileSystem(), path).load() == NO_EPOCH


@pytest.mark.contract("MESH-2", "MESH-11")
def test_saved_epoch_is_there_for_the_next_life(path):
    """What was saved is loaded by another store, and a repeat is allowed."""
    store = EpochStore(RealFileSystem(), path)
    store.save(Epoch(1, 2))
    store.save(Epoch(1, 2))
    assert EpochStore(RealFileSystem(), path).load() == Epoch(1, 2)


@pytest.mark.contract("MESH-2")
def test_epochs_never_go_down(path):
    """An epoch below the saved one is refused and changes nothing."""
    store = EpochStore(RealFileSystem(), path)
    store.save(Epoch(2, 1))
    with pytest.raises(EpochNotGreater, match=r"1\.9 is below 2\.1"):
        store.save(Epoch(1, 9))
    assert store.load() == Epoch(2, 1)


@pytest.mark.contract("MESH-2")
def test_no_flipped_bit_is_believed(path):
    """Whatever bit is flipped: the start ends (74), or the epoch is the one that was saved."""
    fs = RealFileSystem()
    EpochStore(fs, path).save(Epoch(12, 345))
    with open(path, "rb") as file:
        content = file.read()
    loaded = []
    for bit in range(len(content) * 8):
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << (bit % 8)
        with open(path, "wb") as file:
            file.write(flipped)
        with contextlib.suppress(StartError):
            loaded.append(EpochStore(fs, path).load())
    assert set(loaded) == {Epoch(12, 345)}
    assert len(loaded) < 8  # what makes the newline another blank


@pytest.mark.contract("MESH-2", "MESH-11")
def test_epoch_without_a_checksum_is_accepted(path):
    """A file of an earlier version, or one that was written by hand, counts as it is."""
    with open(path, "w", encoding="ascii") as file:
        file.write("3.1\n")
    store = EpochStore(RealFileSystem(), path)
    assert store.load() == Epoch(3, 1)
    store.save(Epoch(3, 2))
    with open(path, encoding="ascii") as file:
        assert file.read().startswith("3.2 crc32:")


@pytest.mark.parametrize(
    "content", [b"", b"0.1", b"one", b"\xff", b"3.1 crc32:00000000", b"3.1 4.1"]
)
def test_damage_is_not_guessed_around(path, content):
    """A damaged file ends the start (74) and names the file."""
    with open(path, "wb") as file:
        file.write(content)
    with pytest.raises(StartError, match="epoch is damaged") as caught:
        EpochStore(RealFileSystem(), path).load()
    assert caught.value.exit_code == 74


def test_unreadable_file_is_an_error(tmp_path):
    """An OSError on reading ends the start (74) too."""
    with pytest.raises(StartError, match="cannot be read"):
        EpochStore(RealFileSystem(), str(tmp_path)).load()
