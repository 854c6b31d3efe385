"""Identity: durable before it is used, one process at a time, one node per directory."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from meshsvc.errors import StartError
from meshsvc.model import NodeId
from meshsvc.storage.files import Locked, RealFileSystem
from meshsvc.storage.identity import open_identity

ID = NodeId("ab" * 16)
NOW = 1_800_000_000.0


class Crash(BaseException):
    """The machine stops here."""


class MemoryDisk:
    """Files in a dict; notes each operation and crashes before the one numbered ``crash_at``."""

    def __init__(self, files=None, crash_at=None):
        self.files = dict(files or {})
        self.log = []
        self.crash_at = crash_at
        self.locked = False

    def _step(self, *what):
        if len(self.log) == self.crash_at:
            raise Crash
        self.log.append(what)

    def make_dir(self, path):
        self._step("make_dir", path)

    def read(self, path):
        self._step("read", path)
        return self.files.get(path)

    def write(self, path, data):
        self._step("write", path)
        self.files[path] = data

    def rename(self, source, target):
        self._step("rename", source, target)
        self.files[target] = self.files.pop(source)

    def sync_dir(self, path):
        self._step("sync_dir", path)

    def lock(self, path):
        self._step("lock", path)
        if self.locked:
            raise Locked("4711")
        self.locked = True
        return self

    def release(self):
        self.locked = False


def begin(disk, now=NOW, name="n1", cluster="c", path="/d"):
    return open_identity(disk, path, name, cluster, now, lambda: ID)


@pytest.mark.contract("GSP-1")
def test_generation_is_the_clock_at_first():
    """A new directory gets a minted id and unix seconds as its first generation."""
    identity = begin(MemoryDisk())
    assert (identity.node_id, identity.generation) == (ID, int(NOW))


@pytest.mark.contract("GSP-1")
@pytest.mark.parametrize(("clock", "expected"), [(3600, 3600), (0.5, 1), (-3600, 1)])
def test_generation_rises_whatever_the_clock_does(clock, expected):
    """A later life has a greater generation, also when the clock stood still or was set back."""
    disk = MemoryDisk()
    begin(disk).lock.release()
    assert begin(disk, NOW + clock).generation == int(NOW) + expected


def test_written_durably_before_it_is_told():
    """The order is: lock, temporary file with fsync, rename, fsync of the directory."""
    disk = MemoryDisk()
    begin(disk)
    assert disk.log == [
        ("make_dir", "/d"),
        ("lock", "/d/lock"),
        ("read", "/d/identity.json"),
        ("write", "/d/identity.json.new"),
        ("rename", "/d/identity.json.new", "/d/identity.json"),
        ("sync_dir", "/d"),
    ]


@pytest.mark.contract("GSP-1")
@pytest.mark.parametrize("step", range(6))
def test_crash_at_every_step_leaves_a_usable_directory(step):
    """After a crash anywhere the id is kept, and the generation is above any that was told."""
    disk = MemoryDisk()
    begin(disk).lock.release()
    disk.log.clear()
    disk.crash_at = step
    with pytest.raises(Crash):
        begin(disk, NOW + 10)
    after = MemoryDisk(disk.files)
    identity = begin(after, NOW)
    assert identity.node_id == ID
    assert identity.generation > int(NOW)


@pytest.mark.contract("LOG-5")
@pytest.mark.parametrize(
    ("kwargs", "word"), [({"cluster": "other"}, "cluster 'c'"), ({"name": "n2"}, "node 'n1'")]
)
def test_directory_of_another_is_refused_and_released(kwargs, word):
    """A directory of another cluster or node is refused (78), unchanged and unlocked."""
    disk = MemoryDisk()
    begin(disk).lock.release()
    before = dict(disk.files)
    with pytest.raises(StartError, match=word) as caught:
        begin(disk, **kwargs)
    assert caught.value.exit_code == 78
    assert (disk.files, disk.locked) == (before, False)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff",
        b"[]",
        b"{}",
        json.dumps({"node_id": "x", "cluster": "c", "name": "n1", "generation": 1}).encode(),
        json.dumps({"node_id": ID, "cluster": "c", "name": "n1", "generation": "1"}).encode(),
        json.dumps({"node_id": ID, "cluster": 1, "name": "n1", "generation": 1}).encode(),
    ],
)
def test_damage_is_named_and_not_overwritten(content):
    """A damaged identity ends the start (74) naming the file, which stays as it is."""
    disk = MemoryDisk({"/d/identity.json": content})
    with pytest.raises(StartError, match=r"/d/identity\.json is damaged") as caught:
        begin(disk)
    assert caught.value.exit_code == 74
    assert (disk.files["/d/identity.json"], disk.locked) == (content, False)


def flips(data):
    """The content with each of its bits flipped, one at a time."""
    for bit in range(len(data) * 8):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << (bit % 8)
        yield bytes(flipped)


@pytest.mark.contract("GSP-1")
def test_no_flipped_bit_is_believed():
    """Whatever bit is flipped: the start ends (74) and says so, and the file stays."""
    disk = MemoryDisk()
    begin(disk)
    content = disk.files["/d/identity.json"]
    for flipped in flips(content):
        bad = MemoryDisk({"/d/identity.json": flipped})
        with pytest.raises(StartError, match="is damaged") as caught:
            begin(bad)
        assert caught.value.exit_code == 74
        assert bad.files["/d/identity.json"] == flipped
    flipped = content.replace(b"1800000000", b"9800000000")
    with pytest.raises(StartError, match=r"its checksum is not .* start again"):
        begin(MemoryDisk({"/d/identity.json": flipped}))


@pytest.mark.contract("GSP-1")
def test_identity_of_an_earlier_version_is_accepted():
    """A file without a checksum begins a life, which writes it with one."""
    row = {"node_id": ID, "cluster": "c", "name": "n1", "generation": int(NOW) + 5}
    disk = MemoryDisk({"/d/identity.json": json.dumps(row, indent=2).encode()})
    assert begin(disk).generation == int(NOW) + 6
    written = json.loads(disk.files["/d/identity.json"])
    assert written.pop("checksum").startswith("crc32:")
    assert written == {**row, "generation": int(NOW) + 6}


def test_every_key_is_under_the_checksum():
    """A key that this version does not know is content too: it cannot appear unnoticed."""
    disk = MemoryDisk()
    begin(disk).lock.release()
    row = json.loads(disk.files["/d/identity.json"])
    more = json.dumps({**row, "site": "a"}).encode()
    with pytest.raises(StartError, match="checksum"):
        begin(MemoryDisk({"/d/identity.json": more}))


@pytest.mark.contract("SHD-2")
def test_locked_directory_names_the_holder():
    """A locked directory ends the start with 75 and the pid of the process that has it."""
    disk = MemoryDisk()
    disk.locked = True
    with pytest.raises(StartError, match="locked by process 4711") as caught:
        begin(disk)
    assert caught.value.exit_code == 75


def test_disk_errors_end_the_start_and_release_the_lock(tmp_path):
    """An OSError from the disk becomes a StartError (74) that names the directory."""
    disk = MemoryDisk()

    def full(path, data):
        raise OSError(28, "No space left on device")

    disk.write = full
    with pytest.raises(StartError, match=r"/d cannot be used.*No space") as caught:
        begin(disk)
    assert (caught.value.exit_code, disk.locked) == (74, False)
    blocker = tmp_path / "file"
    blocker.write_text("")
    with pytest.raises(StartError, match="cannot be used"):
        begin(RealFileSystem(), path=str(blocker / "data"))


def test_real_directory_is_private_and_persistent(tmp_path):
    """On a real disk: mode 0700, files 0600, same id in the next life."""
    path = str(tmp_path / "deep" / "data")
    first = begin(RealFileSystem(), path=path)
    assert os.stat(path).st_mode & 0o777 == 0o700
    assert os.stat(path + "/identity.json").st_mode & 0o777 == 0o600
    first.lock.release()
    first.lock.release()
    second = open_identity(RealFileSystem(), path, "n1", "c", NOW, lambda: pytest.fail("minted"))
    assert second.node_id == first.node_id
    assert second.generation == first.generation + 1
    assert sorted(os.listdir(path)) == ["identity.json", "lock"]
    second.lock.release()


def test_real_lock_excludes_another_process_and_dies_with_it(tmp_path):
    """flock keeps a second process out by name of its holder, and ends with the holder."""
    path = str(tmp_path / "data")
    code = (
        "import sys\n"
        "from meshsvc.storage.files import RealFileSystem\n"
        "fs = RealFileSystem(); fs.make_dir(sys.argv[1])\n"
        "lock = fs.lock(sys.argv[1] + '/lock'); lock.note('123')\n"
        "print('locked', flush=True); sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout.readline() == b"locked\n"
        with pytest.raises(StartError, match="locked by process 123"):
            begin(RealFileSystem(), path=path)
        other.kill()
    begin(RealFileSystem(), path=path).lock.release()
