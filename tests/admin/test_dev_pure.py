"""The parts of ``meshsvc dev`` that need no process: ports, configs, what is lacking."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from meshsvc.admin.cli import exits
from meshsvc.admin.cli.dev_plan import (
    LISTENERS,
    cluster_row,
    fitting,
    free_ports,
    is_free,
    node_config,
    plan_nodes,
    write_atomically,
    write_configs,
)
from meshsvc.admin.cli.dev_watch import Answers, lacking, restart_delay
from meshsvc.admin.cli.exits import CliError
from meshsvc.node.config import load


def nobody(name, port):
    """No node runs already."""
    return False


# --- ports -------------------------------------------------------------------------------------


def test_free_ports_are_free_and_different():
    """Each node gets three neighbours that nobody has, below the outgoing range."""
    first = free_ports(3, (), is_free)
    second = free_ports(3, first, is_free)
    assert not set(first) & set(second)
    assert first == list(range(first[0], first[0] + 3))
    assert min(first + second) >= 10_000
    assert max(first + second) < 65_536


def test_a_port_in_use_is_not_free():
    """A listening socket takes its port."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert not is_free(port)
    assert is_free(port)


def test_no_free_port_is_an_error_and_not_a_loop():
    """The search is bounded."""
    with pytest.raises(CliError, match="--base-port"):
        free_ports(3, (), lambda _: False)


def test_ports_are_remembered(tmp_path):
    """A cluster that is started again has the same ports; a new node gets others."""
    before = plan_nodes(tmp_path, 2, None, nobody)
    after = plan_nodes(tmp_path, 3, None, nobody)
    assert [plan.ports for plan in after[:2]] == [plan.ports for plan in before]
    assert len({port for plan in after for port in plan.ports.values()}) == 12


def test_a_port_that_was_taken_meanwhile_is_replaced(tmp_path):
    """Unless it is that very node which has it."""
    before = plan_nodes(tmp_path, 2, None, nobody)
    old = dict(before[0].ports)
    with socket.create_server(("127.0.0.1", old["admin"])):
        assert (
            plan_nodes(tmp_path, 2, None, lambda name, port: port == old["admin"])[0].ports == old
        )
        after = plan_nodes(tmp_path, 2, None, nobody)
    assert not set(old.values()) & set(after[0].ports.values())
    assert after[1].ports == before[1].ports


def test_damaged_memory_is_ignored(tmp_path):
    """What is no list of ports is chosen anew."""
    for text in ("", "[]", '{"n1": 5}', '{"n1": {"peer": "x"}}'):
        (tmp_path / "ports.json").write_text(text)
        assert len(plan_nodes(tmp_path, 1, None, nobody)[0].ports) == 4


def test_a_base_port_gives_ports_that_can_be_told_in_advance(tmp_path):
    """n1 from the base port on, n2 ten above; a taken one is named."""
    base = free_ports(13, (), is_free)[0]
    plans = plan_nodes(tmp_path, 2, base, nobody)
    assert [plan.ports["peer"] for plan in plans] == [base, base + 10]
    with (
        socket.create_server(("127.0.0.1", base + 11)),
        pytest.raises(CliError, match=f"n2 needs port {base + 11}") as caught,
    ):
        plan_nodes(tmp_path, 2, base, nobody)
    assert caught.value.code == exits.CANNOT_CREATE
    with pytest.raises(CliError, match="no room"):
        plan_nodes(tmp_path, 2, 65_530, nobody)


# --- configs -----------------------------------------------------------------------------------


@pytest.mark.contract("OPS-1")
def test_the_written_configs_load(tmp_path):
    """Each node has its name, ports and data, the others as seeds, and all as roster."""
    plans = plan_nodes(tmp_path, 3, None, nobody)
    write_configs(plans, shards=2)
    configs = [load(plan.config) for plan in plans]
    assert [config.node.name for config in configs] == ["n1", "n2", "n3"]
    for plan, config in zip(plans, configs, strict=True):
        assert config.node.data_dir == str(plan.data_dir)
        assert config.node.cpu_allocation == 2
        assert config.node.pin_cores is False
        assert set(config.listen.bound()) == set(LISTENERS)
        assert config.mesh.roster == ("n1", "n2", "n3")
        others = [each.listen.peer for each in configs if each is not config]
        assert list(config.seeds.addresses) == others


def test_a_deep_folder_gets_a_short_run_dir(tmp_path):
    """A Unix socket's path has a limit that a folder may not have."""
    plans = plan_nodes(tmp_path / ("x" * 100), 2, None, nobody)
    write_configs(plans, shards=1)
    run_dirs = {load(plan.config).node.run_dir for plan in plans}
    assert len(run_dirs) == 2
    assert all(len(run_dir) < 80 for run_dir in run_dirs)


def test_a_folder_may_have_any_name(tmp_path):
    """Quotes and backslashes in a path survive the file."""
    plans = plan_nodes(tmp_path / 'a"b\\c é', 1, None, nobody)
    path = tmp_path / "c.toml"
    path.write_text(node_config(plans[0], plans, 1), encoding="utf-8")
    assert load(path).node.data_dir == str(plans[0].data_dir)


def test_cluster_json_has_its_exact_shape(tmp_path):
    """Names, pids, addresses, config and data of a node, and nothing else."""
    plan = plan_nodes(tmp_path, 1, None, nobody)[0]
    row = cluster_row(plan, 7, [{"index": 0, "pid": 8, "state": "ready"}])
    assert row == {
        "name": "n1",
        "pid": 7,
        "shards": [{"index": 0, "pid": 8}],
        "peer": f"127.0.0.1:{plan.ports['peer']}",
        "client": f"127.0.0.1:{plan.ports['client']}",
        "etcd": f"127.0.0.1:{plan.ports['etcd']}",
        "admin": f"127.0.0.1:{plan.ports['admin']}",
        "config": str(tmp_path / "n1" / "meshsvc.toml"),
        "data_dir": str(tmp_path / "n1" / "data"),
    }
    json.dumps(row)


def test_a_file_is_replaced_or_left(tmp_path):
    """No half-written file, and nothing left beside it when writing fails."""
    path = tmp_path / "f"
    write_atomically(path, "one")
    write_atomically(path, "two")
    with pytest.raises(OSError, match="No such"):
        write_atomically(tmp_path / "none" / "f", "x")
    assert [each.name for each in Path(tmp_path).iterdir()] == ["f"]
    assert path.read_text() == "two"


# --- formed? -----------------------------------------------------------------------------------


NAMES = ["n1", "n2", "n3"]


def answers(name, names, epoch="1.1", **changes):
    """What a node of a formed cluster answers."""
    said = {
        "status": {"name": name, "ready": True},
        "members": [{"name": each, "status": "alive"} for each in names],
        "mesh": {
            "epoch": epoch,
            "state": "formed",
            "links": [
                {"peer": each, "state": "up", "epoch": epoch} for each in names if each != name
            ],
        },
    }
    return Answers(**(said | changes))


def cluster(**changed):
    """Three nodes, formed but for what is changed."""
    return {name: changed.get(name, answers(name, NAMES)) for name in NAMES}


def test_a_formed_cluster_lacks_nothing():
    """One epoch, all links, all alive."""
    assert lacking(cluster()) == {}


@pytest.mark.parametrize(
    ("n2", "missing"),
    [
        (None, "no answer yet"),
        (answers("n2", ["n1", "n2"]), "sees 1 of 2 others"),
        (
            answers("n2", ["n1", "n2", "n3"], mesh={"epoch": "0.0", "state": "waiting"}),
            "mesh waiting",
        ),
        (
            answers("n2", ["n1", "n2", "n3"], mesh={"epoch": "1.1", "state": "formed"}),
            "0 of 2 links",
        ),
        (
            answers("n2", ["n1", "n2", "n3"], status={"ready": False, "reasons": ["shard 1"]}),
            "shard 1",
        ),
    ],
)
def test_what_one_node_lacks_is_said(n2, missing):
    """The progress line names the node and what it waits for."""
    assert lacking(cluster(n2=n2)) == {"n2": missing}


def test_a_link_of_another_epoch_does_not_count():
    """Up at an old epoch is not up."""
    links = [{"peer": "n1", "state": "up", "epoch": "1.1"}, {"peer": "n3", "state": "up"}]
    mesh = {"epoch": "1.1", "state": "formed", "links": links}
    assert lacking(cluster(n2=answers("n2", NAMES, mesh=mesh))) == {"n2": "1 of 2 links"}


def test_two_epochs_are_not_one_cluster():
    """Each node may be content with itself and yet not with the others."""
    found = lacking(cluster(n2=answers("n2", NAMES, epoch="2.1")))
    assert set(found) == {"n1", "n2", "n3"}
    assert "epochs differ" in found["n1"]


@pytest.mark.parametrize(
    ("starts", "now", "wait_s"),
    [
        ([], 100, 0),
        ([0], 1, 0),
        ([0, 1], 1, 0.5),
        ([0, 1, 2], 2, 1.0),
        ([0, 1, 2], 2.25, 0.75),
        ([0, 1, 2], 31.5, 0),
        (list(range(20)), 19, 10.0),
    ],
)
def test_a_node_that_keeps_ending_is_restarted_slower(starts, now, wait_s):
    """At once the first time, then twice as late each time, up to 10 s, until it lives."""
    assert restart_delay(starts, now) == wait_s


def test_a_small_machine_gets_fewer_shards_and_is_told():
    """A node would refuse them; the first cluster that somebody tries is to run anywhere."""
    assert fitting(2, 2) == (2, "")
    shards, note = fitting(2, 1)
    assert (shards, "CPUs for 1 shards a node, 2 were asked for" in note) == (1, True)
