"""Lines of keys in TOML texts, and going on after a syntax error."""

from __future__ import annotations

import tomllib

from hypothesis import given, settings
from hypothesis import strategies as st

from meshsvc.node.config_lines import MAX_SYNTAX_ERRORS, find_lines, parse

TEXT = '''# comment [x]
[node]
name = "n1"   # the = name
"quoted key" = 1
text = """
[not.a.section]
fake = 1
"""
list = [
  "a = 1",
  [1, 2],   # ]
]
after = {x = 1}
[a.b]
c.d = 1
[[many]]
last = 'it # = ['
'''


def test_every_key_has_its_line():
    """Sections, keys, dotted and quoted keys are found; strings and lists are stepped over."""
    assert find_lines(TEXT) == {
        ("node",): 2,
        ("node", "name"): 3,
        ("node", "quoted key"): 4,
        ("node", "text"): 5,
        ("node", "list"): 9,
        ("node", "after"): 13,
        ("a", "b"): 14,
        ("a", "b", "c", "d"): 15,
        ("many",): 16,
        ("many", "last"): 17,
    }


def test_a_path_without_a_line_has_its_parents():
    """An inner key of an inline table points at the line that holds it."""
    assert parse(TEXT).line(("node", "after", "x")) == 13
    assert parse(TEXT).line(("nowhere",)) == 1


def test_a_syntax_error_does_not_hide_the_next():
    """Each broken line is noted with its line and key, and the rest is still read."""
    parsed = parse("[node]\na = x\nb = 1\nb = 2\n[c]\nd = 2\ne = = 3\n")
    assert [line for line, _ in parsed.errors] == [2, 4, 7]
    assert parsed.data == {"node": {"b": 1}, "c": {"d": 2}}
    assert parsed.broken == {("node", "a"), ("node", "b"), ("c", "e")}


def test_an_open_list_is_reported_once():
    """Where the rest of a file cannot be understood, one error is enough."""
    assert len(parse('[a]\nx = ["a",\n[b]\ny = 1\nz = 2\n').errors) == 1


def test_errors_of_one_file_are_bounded():
    """A file that is no TOML at all does not cost more than a bounded number of tries."""
    assert len(parse("a = b\n" * 1000).errors) == MAX_SYNTAX_ERRORS


@settings(deadline=None)  # the machine may be busy
@given(st.text(st.sampled_from(" \n=[]{}\"'#ab.1,\\"), max_size=60))
def test_no_text_makes_it_raise(text):
    """Any text is either read as tomllib reads it, or has an error with a line in it."""
    parsed = parse(text)
    try:
        wanted = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        assert parsed.errors
        assert all(1 <= line <= text.count("\n") + 1 for line, _ in parsed.errors)
    else:
        assert parsed.data == wanted
        assert not parsed.errors
