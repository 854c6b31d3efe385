"""``[discovery]`` and its free options: layers, mistakes, the way to the shards."""

from __future__ import annotations

import json

import pytest

from meshsvc.errors import ConfigError
from meshsvc.node.config import Config, load

LEAST = '[node]\nname = "n1"\ncluster = "demo"\ndata_dir = "data"\n'
DNS = '[discovery]\nbackend = "dns"\n[discovery.options]\nnames = ["a.example"]\n'


@pytest.fixture
def write(tmp_path):
    """Writes a config file and gives its path."""

    def write(text, name="meshsvc.toml"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        return path

    return write


def problems(path, env=None):
    """The problems of a config that must have some."""
    with pytest.raises(ConfigError) as caught:
        load(path, env)
    return list(caught.value.problems)


@pytest.mark.contract("DISC-5")
def test_without_the_section_the_seeds_are_the_backend(write):
    """An existing config keeps its meaning."""
    config = load(write(LEAST + '[seeds]\naddresses = ["10.0.0.1:7700"]\n'))
    assert (config.discovery.backend, config.discovery.options) == ("static", {})
    assert config.discovery.timeout_s == 10.0


def test_options_are_layered_one_by_one_and_survive_the_way_to_a_shard(write):
    """File < conf.d < environment < flag; nested tables of a plugin too."""
    path = write(LEAST + DNS + "port = 1\n")
    write("[discovery.options]\nport = 2\n", "conf.d/10.toml")
    env = {"MESHSVC_DISCOVERY__OPTIONS__NAMES": '["b.example"]'}
    config = load(path, env, {"discovery.options.servers": '["10.0.0.1"]'})
    assert config.discovery.options == {"names": ["b.example"], "port": 2, "servers": ["10.0.0.1"]}
    plugin = LEAST + '[discovery]\nbackend = "consul"\n[discovery.options.tls]\nca = "x"\n'
    config = load(write(plugin))
    assert config.discovery.options["tls"] == {"ca": "x"}
    assert Config.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_what_is_wrong_with_options_is_found_before_anything_runs(write):
    """Each with its line; those of a plugin are for the plugin to judge."""
    text = LEAST + '[discovery]\nbackend = "dns"\n[discovery.options]\nnames = [""]\nprot = 1\n'
    found = problems(write(text))
    assert len(found) == 2
    assert (
        found[0].partition(".toml:")[2].startswith("8: discovery.options.names: '' is not a text")
    )
    assert found[1].partition(".toml:")[2].startswith("9: discovery.options.prot: no option of")
    (missing,) = problems(write(LEAST + '[discovery]\nbackend = "file"\n'))
    assert "discovery.options.path: missing; backend 'file' needs the path of the file" in missing
    (wrong,) = problems(write(LEAST + "[discovery]\noptions = 5\n"))
    assert "discovery.options: not a table" in wrong
    assert load(write(LEAST + '[discovery]\nbackend = "consul"\n')).discovery.backend == "consul"
