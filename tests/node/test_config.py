"""The config of a node: layers, mistakes, paths, and the file that documents it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from meshsvc.errors import ConfigError
from meshsvc.model import Address
from meshsvc.node.config import Config, load
from meshsvc.node.config_sections import KEYS, SECTIONS

ROOT = Path(__file__).parents[2]
SAMPLE = ROOT / "etc" / "meshsvc.toml"
LEAST = '[node]\nname = "n1"\ncluster = "demo"\ndata_dir = "data"\n'


@pytest.fixture
def write(tmp_path):
    """Writes a config file and gives its path."""

    def write(text, name="meshsvc.toml"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        return path

    return write


def problems(path, env=None, overrides=None):
    """The problems of a config that must have some."""
    with pytest.raises(ConfigError) as caught:
        load(path, env, overrides)
    return list(caught.value.problems)


def only(path, env=None, overrides=None):
    """The one problem of a config that must have one."""
    (problem,) = problems(path, env, overrides)
    return problem


# --- what a right config gives -------------------------------------------------------------


def test_three_keys_are_enough(write, tmp_path):
    """Everything but name, cluster and data dir has a default."""
    config = load(write(LEAST))
    assert config.node.name == "n1"
    assert config.node.data_dir == str(tmp_path / "data")
    assert config.node.run_dir == str(tmp_path / "data" / "run")
    assert config.listen.bound() == {
        "peer": Address("127.0.0.1", 7700),
        "admin": Address("127.0.0.1", 7701),
    }
    assert config.gossip.interval_s == 1.0
    assert config.mesh.form_delay_s == 0.5
    assert config.shards.restarts == 5
    assert config.options("none") == {}


@pytest.mark.contract("OPS-2")
def test_later_layers_win_key_by_key(write):
    """Default < file < conf.d by name < environment < flag, each key by itself."""
    path = write(LEAST + '[gossip]\ninterval = "2 s"\nsuspicion = "2 s"\nprobe_timeout = "2 s"\n')
    write('[gossip]\nsuspicion = "3 s"\nprobe_timeout = "3 s"\n', "conf.d/10.toml")
    write('[gossip]\nprobe_timeout = "4 s"\n', "conf.d/20.toml")
    env = {"MESHSVC_GOSSIP__PROBE_TIMEOUT": "5 s", "MESHSVC_SHARDS__RESTARTS": "6"}
    config = load(path, env, {"shards.restarts": "7"})
    assert config.gossip.probe_interval_s == 1.0
    assert config.gossip.interval_s == 2.0
    assert config.gossip.suspicion_s == 3.0
    assert config.gossip.probe_timeout_s == 5.0
    assert config.shards.restarts == 7
    assert config.origins["gossip.interval"] == f"{path}:6"
    assert config.origins["gossip.suspicion"] == f"{path.parent}/conf.d/10.toml:2"
    assert config.origins["gossip.probe_timeout"] == "environment MESHSVC_GOSSIP__PROBE_TIMEOUT"
    assert config.origins["shards.restarts"] == "flag --set shards.restarts"
    assert "gossip.probe_interval" not in config.origins


def test_variables_spell_every_sort_of_value(write):
    """Booleans, numbers, lists and words are read from text; other variables are ignored."""
    env = {
        "MESHSVC_ADMIN": "http://x",
        "OTHER__KEY": "1",
        "MESHSVC_NODE__PIN_CORES": "false",
        "MESHSVC_NODE__CPU_ALLOCATION": "[0, 2]",
        "MESHSVC_NODE__APPLICATIONS": "ratelimit, other",
        "MESHSVC_SEEDS__ADDRESSES": "a:1,[::1]:2",
        "MESHSVC_LISTEN__WEB": "0.0.0.0:80",
        "MESHSVC_APPLICATIONS__RATELIMIT__RATE": "10",
        "MESHSVC_APPLICATIONS__RATELIMIT__WORD": "ten",
    }
    config = load(write(LEAST), env, {"mesh.roster": ["n1", "n2"]})
    assert config.node.pin_cores is False
    assert config.node.cpu_allocation == (0, 2)
    assert config.node.applications == ("ratelimit", "other")
    assert config.seeds.addresses == (Address("a", 1), Address("::1", 2))
    assert config.listen.others == {"web": Address("0.0.0.0", 80)}
    assert config.options("ratelimit") == {"rate": 10, "word": "ten"}
    assert config.mesh.roster == ("n1", "n2")


def test_a_word_is_not_a_list_of_one(write):
    """ "all" stays the word where a list could be spelled too."""
    config = load(write(LEAST), {"MESHSVC_NODE__APPLICATIONS": "all"})
    assert config.node.applications == "all"


@pytest.mark.parametrize(
    ("spelled", "read"),
    [('"all"', "all"), ("2", 2), ('"0..3"', "0..3"), ("[0, 2]", (0, 2))],
)
def test_forms_of_cpu_allocation(write, spelled, read):
    """All, a number, a range and a list are kept as they are for the shards to judge."""
    config = load(write(LEAST + f"cpu_allocation = {spelled}\n"))
    assert config.node.cpu_allocation == read


def test_an_empty_admin_address_turns_the_port_off(write):
    """A listener set to "" is not bound."""
    config = load(write(LEAST + '[listen]\nadmin = ""\n'))
    assert list(config.listen.bound()) == ["peer"]


def test_applications_get_free_tables(write):
    """Options keep their shape, tables without options exist, layers merge inside."""
    path = write(LEAST + "[applications.a]\nx = 1\ny = {z = [1, {q = 2}]}\n[applications.b]\n")
    config = load(path, {"MESHSVC_APPLICATIONS__A__Y__W": "3"})
    assert config.applications == {"a": {"x": 1, "y": {"z": [1, {"q": 2}], "w": 3}}, "b": {}}


@pytest.mark.parametrize(
    ("below", "above", "result"),
    [
        ("y = 1", {"applications.a.y.z": "2"}, {"y": {"z": 2}}),
        ("y = {z = 2}", {"applications.a.y": "1"}, {"y": 1}),
    ],
)
def test_a_value_replaces_a_table_and_the_reverse(write, below, above, result):
    """When two layers disagree about the shape of an option, the later one wins."""
    config = load(write(LEAST + f"[applications.a]\n{below}\n"), {}, above)
    assert config.options("a") == result


def test_paths_start_where_they_are_written(write, tmp_path, monkeypatch):
    """Relative paths of a file start at its folder, those of a variable at the current one."""
    monkeypatch.chdir("/")
    config = load(write(LEAST + 'run_dir = "../r"\n'), {"MESHSVC_NODE__DATA_DIR": "d"})
    assert config.node.data_dir == "/d"
    assert config.node.run_dir == str(tmp_path.parent / "r")


def test_a_config_survives_json(write):
    """What the supervisor hands to a shard is the same config again."""
    path = write(
        LEAST + 'cpu_allocation = [1, 2]\nadvertise = "10.0.0.1:7700"\n'
        '[listen]\nclient = "127.0.0.1:0"\nweb = "[::1]:80"\n[seeds]\naddresses = ["a:1"]\n'
        '[gossip]\ninterval = "1.5 s"\n[applications.a]\nx = [1.5, "s", true]\n[applications.b]\n'
    )
    config = load(path)
    assert Config.from_dict(json.loads(json.dumps(config.to_dict()))) == config


# --- mistakes --------------------------------------------------------------------------------


@pytest.mark.contract("OPS-2")
def test_five_mistakes_are_reported_at_once(write):
    """Every mistake comes with path, line, key, what was got and what is near or expected."""
    path = write(
        "[node]\n"
        'naem = "n1"\n'
        "cluster = demo\n"
        'data_dir = "/d"\n'
        "[gossip]\n"
        "interval = 5\n"
        "[listen]\n"
        'peer = "nowhere"\n'
        "[shard]\n"
        "restarts = 5\n"
    )
    found = problems(path)
    assert [problem.removeprefix(f"{path}:") for problem in found] == [
        "3: TOML: Invalid value",
        '2: node.naem: unknown key, got "n1", nearest: node.name',
        "6: gossip.interval: a duration without a unit, got 5, expected "
        'a duration from "20 ms" to "1 min" in us, ms, s, min, h or d',
        '8: listen.peer: not an address, got "nowhere", expected "host:port" or "[v6]:port"',
        "10: shard.restarts: unknown section, got [shard], nearest: [shards]",
        '1: node.name: required but not set, got nothing, expected 1 to 63 of a-z, 0-9 and "-"',
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[node]\npeer = "a:1"', 'node.peer: unknown key, got "a:1", nearest: listen.peer'),
        ("[nodes]\nx = 1", "nodes.x: unknown section, got [nodes], nearest: [node]"),
        ("[admin]\nxyzzy = 1", "nearest: one of admin.hosts"),
        ("[zzz]\ninterval = 1", "nearest: [gossip]"),
        ("gossip = 1", "gossip: not a table, got 1, expected a table: [gossip]"),
        ("[applications]\na = 1", "applications.a: not a table, got 1"),
        ("[applications.a]\nx = 1979-05-27", "no JSON form: quote it"),
        ('[gossip]\ninterval = "1 week"', "unknown unit 'week', got \"1 week\""),
        ('[gossip]\ninterval = "1 ms"', "out of range"),
        ("[shards]\nrestarts = -1", "out of range, got -1"),
        ("[shards]\nrestarts = true", "not a whole number, got true"),
        ('[seeds]\nrequired = "yes"', 'not a boolean, got "yes", expected true or false'),
        ('[seeds]\naddresses = "a:1"', "not a list"),
        ('[seeds]\naddresses = ["a:1", "b"]', "entry 2 is not an address"),
        ('[seeds]\naddresses = ["a:0"]', "entry 1 is an address with port 0"),
        ('[mesh]\nroster = ["n1", "n1"]', "entry 2 (n1) is there twice"),
        ('[mesh]\nroster = ["N1"]', "entry 1 is not a valid name"),
        ('[mesh]\ncontroller = "zab"', 'expected one of "static", "raft"'),
        ('[mesh]\ncontroller = "raft"', "needs the store, and expect is 0"),
        ('[listen]\netcd = "h:1"', "[store] expect = N"),
        ("[store]\nexpect = 10", "expect"),
        ("[listen]\npeer = 7700", "not a string, got 7700"),
        ('[listen]\npeer = ""', "not an address"),
        ('[listen]\n"a b" = "h:1"', "listen.a b: unknown key"),
        ('[listen]\nweb = "h:99999"', "not an address"),
    ],
)
def test_each_mistake_says_what_and_what_instead(write, text, said):
    """A wrong value is named with what was got and what is expected."""
    rest = LEAST if not text.startswith("[node]") else LEAST.removeprefix("[node]\n")
    body = f"{text}\n{rest}" if rest != LEAST or not text.startswith("[") else f"{LEAST}{text}\n"
    assert said in only(write(body))


@pytest.mark.parametrize("spelled", ["0", "257", "[]", '"3..1"', '"some"', "true", "[-1]", "1.5"])
@pytest.mark.contract("SHD-1")
def test_impossible_allocations_are_config_errors(write, spelled):
    """Zero shards, too many, and what is no allocation at all never reach the shards."""
    assert "node.cpu_allocation: " in only(write(LEAST + f"cpu_allocation = {spelled}\n"))


def test_a_wildcard_needs_an_address_to_advertise(write):
    """An address nobody can dial is not published."""
    text = LEAST + '[listen]\npeer = "0.0.0.0:7700"\n'
    assert "node.advertise: missing, and listen.peer is 0.0.0.0:7700" in only(write(text))
    assert load(write(text), {"MESHSVC_NODE__ADVERTISE": "h:1"}).node.advertise == Address("h", 1)


def test_two_listeners_cannot_share_an_address(write):
    """The second is named with the first; port 0 is never shared."""
    path = write(LEAST + '[listen]\nclient = "127.0.0.1:7701"\n')
    assert "6: listen.client: the address of listen.admin too" in only(path)
    load(write(LEAST + '[listen]\npeer = "h:0"\nclient = "h:0"\n'))


def test_a_variable_or_flag_is_named_as_the_place(write):
    """A mistake outside the files says where it was made."""
    found = problems(write(LEAST), {"MESHSVC_NODE__NAEM": "x"}, {"mesh.controller": "loud"})
    assert found[0].startswith("environment MESHSVC_NODE__NAEM: node.naem: unknown key")
    assert found[1].startswith("flag --set mesh.controller: mesh.controller: not a known word")


def test_a_broken_key_is_not_missing_too(write):
    """A required key with a wrong value is one mistake, not two."""
    assert "not a valid name" in only(write(LEAST.replace('"n1"', '"N 1"')))
    assert "TOML" in only(write(LEAST.replace('"n1"', "n1")))


def test_a_file_that_cannot_be_read_is_one_problem(tmp_path, write):
    """No file, a folder, and bytes that are no text each say so."""
    assert "cannot be read: No such file" in only(tmp_path / "none.toml")
    assert "cannot be read: Is a directory" in only(tmp_path)
    path = write("")
    path.write_bytes(LEAST.encode() + b'#\xff\n[mesh]\nroster = ["n1"]\n')
    assert f"{path}:5: not UTF-8 text" in problems(path)[0]


def test_long_values_are_cut(write):
    """An error repeats enough of a value to find it, not all of it."""
    assert len(only(write(LEAST + f'[mesh]\nroster = "{"x" * 9999}"\n'))) < 400


# --- the documented file -----------------------------------------------------------------------


def sample_uncommented():
    """The sample with every "#key = value" line active."""
    return re.sub(r"(?m)^#(?=[a-z_]+ = )", "", SAMPLE.read_text())


@pytest.mark.contract("OPS-2")
def test_the_sample_lists_exactly_the_keys_there_are():
    """etc/meshsvc.toml has every key and no other, with its default."""
    data = tomllib.loads(sample_uncommented())
    listed = {
        (section, key): value for section, table in data.items() for key, value in table.items()
    }
    assert list(listed) == list(KEYS)
    defaults = {path: key.default for path, key in KEYS.items() if not key.required}
    assert {path: value for path, value in listed.items() if path in defaults} == defaults
    required = [key.name for key in KEYS.values() if key.required]
    assert list(tomllib.loads(SAMPLE.read_text())["node"]) == required


def test_every_key_of_the_sample_has_a_comment():
    """Above each key, or the key right above it, stands a comment that says what for."""
    previous = ""
    for line in SAMPLE.read_text().splitlines():
        if re.match(r"#?[a-z_]+ = ", line):
            assert previous.startswith("#"), line
        previous = line


def test_the_sample_loads_as_it_is_and_uncommented(write):
    """Both give the same node."""
    assert load(write(sample_uncommented())) == load(SAMPLE)


def test_the_free_parts_of_the_sample_load(write):
    """The examples of free keys are right too."""
    text = SAMPLE.read_text().replace('# web = "', 'web = "')
    text = text.replace("# [applications", "[applications").replace("# rate", "rate")
    config = load(write(text))
    assert config.listen.others == {"web": Address("0.0.0.0", 8080)}
    assert config.options("ratelimit") == {"rate": 10}


def test_every_section_has_a_reader():
    """Each section of the schema is an attribute of the config."""
    assert set(SECTIONS) <= set(Config.__dataclass_fields__)


def test_loading_needs_no_twisted():
    """The config is importable where every millisecond counts."""
    code = (
        "import sys, meshsvc.node.config as c; c.load(sys.argv[1]);"
        "print([m for m in sys.modules if m.split('.')[0] in ('twisted', 'cbor2', 'zope')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, SAMPLE], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert done.stdout.strip() == "[]"
