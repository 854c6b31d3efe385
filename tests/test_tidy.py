"""The shape of the code, checked: sizes, floors' purity, machines, docstrings, leftovers.

The order of the floors is import-linter's affair (``pyproject.toml``); this file checks
what is decided module by module.
"""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from automat._typed import TypeMachine

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "meshsvc"

MAX_MODULE_LINES = 400
MAX_FUNCTION_LINES = 50
MAX_TABLE_LINES = 100
"""For the function that builds a machine: its table is read as one, from top to bottom."""

MAX_PARAMETERS = 7
MAX_STATES = 10

IMPURE_FLOORS = {"node", "admin", "sim"}
IMPURE_NAMES = {"protocol.py", "service.py"}
FORBIDDEN_IN_PURE = {
    *("asyncio", "ctypes", "datetime", "fcntl", "io", "logging", "mmap", "multiprocessing"),
    *("os", "pathlib", "random", "secrets", "select", "selectors", "shutil", "signal", "socket"),
    *("ssl", "subprocess", "sys", "tempfile", "threading", "time", "twisted", "uuid"),
}
ALSO_ALLOWED = {
    "wire/codec.py": {"io"},  # BytesIO: the decoder takes no bytes
    "storage/": {"fcntl", "io", "os", "pathlib"},  # the one floor that touches files
}
MACHINES = {
    "retry.py",
    "link/handshake.py",
    "link/keepalive.py",
    "link/dial.py",
    "gossip/liveness.py",
    "mesh/epoch.py",
    "discovery/phases.py",
    "tables/join.py",
    "node/worker.py",
}
"""The modules that hold an Automat machine; those not written yet are simply absent."""

LEFTOVER = re.compile(r"\b(?:TO[D]O|FIX[M]E)\b|/wor[k]/|/tmp/(?:ven[v]|spe[c])|/roo[t]/|/hom[e]/\w")
"""Spelled with one-letter sets, so that it does not match itself."""

GENERATED = "*_pb2.py"
"""What ``make proto`` writes; tests/etcd checks that it is what its sources say."""

SKIPPED_DIRS = {".git", ".venv", "__pycache__", ".hypothesis", "dist", "build", "dev-cluster"}
TEXT_SUFFIXES = {".py", ".md", ".toml", ".txt", ".cfg", ".service", ".yml", ".yaml", ".sh", ""}


def rel(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def modules(*folders: str) -> list[Path]:
    found = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    ours = (path for path in found if not path.match(GENERATED))
    return sorted(path for path in ours if not SKIPPED_DIRS & set(path.parts))


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def runtime_imports(path: Path) -> Iterator[tuple[int, str]]:
    """(line, dotted module) of each import that runs, so none under TYPE_CHECKING."""
    pending: list[ast.AST] = [tree(path)]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            pending.extend(node.orelse)
        elif isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.lineno, node.module or ""
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)
        else:
            pending.extend(ast.iter_child_nodes(node))


def is_pure(path: Path) -> bool:
    inside = path.relative_to(PACKAGE)
    return inside.parts[0] not in IMPURE_FLOORS and inside.name not in IMPURE_NAMES


def allowed(path: Path) -> set[str]:
    inside = path.relative_to(PACKAGE).as_posix()
    return set().union(
        *(names for where, names in ALSO_ALLOWED.items() if inside.startswith(where))
    )


def oversize(path: Path) -> Iterator[str]:
    lines = len(path.read_text(encoding="utf-8").splitlines())
    if lines > MAX_MODULE_LINES:
        yield f"{rel(path)} has {lines} lines"
    for function in functions(path):
        where = f"{rel(path)}:{function.lineno} {function.name}"
        size = (function.end_lineno or function.lineno) - function.lineno + 1
        table = rel(path).removeprefix("meshsvc/") in MACHINES
        table = table and function.name.startswith("_build")
        if size > (MAX_TABLE_LINES if table else MAX_FUNCTION_LINES):
            yield f"{where} has {size} lines"
        args = function.args
        named = {a.arg for a in (*args.posonlyargs, *args.args, *args.kwonlyargs)}
        if len(named - {"self", "cls"}) > MAX_PARAMETERS:
            yield f"{where} has {len(named - {'self', 'cls'})} parameters"


def test_modules_and_functions_are_small() -> None:
    """A module has at most 400 lines, a function 50 lines and 7 parameters besides self."""
    paths = modules("meshsvc", "twisted", "bench", "examples")
    wrong = [text for path in paths for text in oversize(path)]
    assert not wrong, "\n".join(wrong)


def impurities(path: Path) -> Iterator[str]:
    permitted = allowed(path)
    for line, name in runtime_imports(path):
        top, *inner = name.split(".")
        if top in FORBIDDEN_IN_PURE and top not in permitted:
            yield f"{rel(path)}:{line} imports {name}"
        if top == "meshsvc" and {"protocol", "service"} & set(inner[1:2]):
            yield f"{rel(path)}:{line} imports {name}, which is not pure"
    for node in ast.walk(tree(path)) if "io" not in permitted else ():
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "open":
            yield f"{rel(path)}:{node.lineno} opens a file"


def test_cores_are_pure() -> None:
    """No clock, randomness, I/O, logging, threads or Twisted outside protocol and service."""
    paths = [path for path in modules("meshsvc") if is_pure(path)]
    wrong = [text for path in paths for text in impurities(path)]
    assert not wrong, "\n".join(wrong)


def hash_ordered(path: Path) -> Iterator[str]:
    """Places that iterate directly over a set, whose order depends on the hash seed."""
    for node in ast.walk(tree(path)):
        if not isinstance(node, ast.For | ast.comprehension):
            continue
        over = node.iter
        called = isinstance(over, ast.Call) and isinstance(over.func, ast.Name)
        if isinstance(over, ast.Set | ast.SetComp) or (
            called and over.func.id in {"set", "frozenset"}
        ):
            yield f"{rel(path)}:{over.lineno}"


def test_cores_do_not_depend_on_the_order_of_sets() -> None:
    """A pure module sorts a set before it walks it: one seed must give one trace (SIM-1)."""
    wrong = [place for path in modules("meshsvc") if is_pure(path) for place in hash_ordered(path)]
    assert not wrong, "iterates over a set: " + ", ".join(wrong)


def test_automat_only_where_a_machine_is_declared() -> None:
    """Automat is imported by the modules listed in MACHINES and by no other."""
    wrong = [
        f"{rel(path)}:{line}"
        for path in modules("meshsvc")
        for line, name in runtime_imports(path)
        if name == "automat" and path.relative_to(PACKAGE).as_posix() not in MACHINES
    ]
    assert not wrong, f"Automat outside the listed machine modules: {wrong}"


@pytest.mark.parametrize("name", sorted(n for n in MACHINES if (PACKAGE / n).exists()))
def test_a_machine_is_complete(name: str) -> None:
    """One machine a module; every (state, input) pair is decided; every state is reachable.

    Inputs that start with an underscore are branches that the machine's own behaviours
    take: they are decided where they are used. A pair that cannot happen may be listed, with
    its reason, in the module's ``IMPOSSIBLE``: a set of (state name, input name).
    """
    module = importlib.import_module("meshsvc." + name[:-3].replace("/", "."))
    machines = {id(v): v for v in vars(module).values() if isinstance(v, TypeMachine)}
    assert len(machines) == 1, f"{name} holds {len(machines)} machines at module level"
    (machine,) = machines.values()
    automaton = machine.__automat_automaton__
    steps = automaton.allTransitions()
    states = {state.name: state for state in automaton.states() | {automaton.initialState}}
    inputs = {i for i in vars(machine.__automat_type__) if not i.startswith("_")}
    assert len(states) <= MAX_STATES, f"{name} has {len(states)} states"

    decided = {(state.name, symbol) for state, symbol, _, _ in steps}
    impossible = set(getattr(module, "IMPOSSIBLE", ()))
    assert not impossible & decided, f"{name}: declared impossible and decided"
    missing = {(s, i) for s in states for i in inputs} - decided - impossible
    assert not missing, f"{name} leaves undecided (state, input): {sorted(missing)}"

    reached, edge = set(), {automaton.initialState}
    while edge:
        reached |= edge
        edge = {target for source, _, target, _ in steps if source in reached} - reached
    stranded = {s for s, state in states.items() if state not in reached}
    assert not stranded, f"{name}: no way leads to {sorted(stranded)}"


def test_only_the_command_line_prints() -> None:
    """No ``print`` outside ``admin/cli``."""
    paths = [p for p in modules("meshsvc") if not rel(p).startswith("meshsvc/admin/cli/")]
    wrong = [
        f"{rel(path)}:{node.lineno}"
        for path in paths
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "print"
    ]
    assert not wrong, f"print at {wrong}"


def undocumented(path: Path) -> Iterator[str]:
    if not ast.get_docstring(tree(path)):
        yield f"{rel(path)}: the module"
    pending: list[ast.AST] = list(tree(path).body)
    while pending:
        node = pending.pop()
        if not isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if node.name.startswith("_"):
            continue
        if isinstance(node, ast.ClassDef):
            pending.extend(node.body)
        setter = any(ast.unparse(d).endswith(".setter") for d in node.decorator_list)
        theirs = re.search("[a-z][A-Z]", node.name)  # camelCase: documented by an interface
        marker = path.name == "errors.py" and len(node.body) == 1  # its name says it all
        if not (setter or theirs or marker or ast.get_docstring(node)):
            yield f"{rel(path)}:{node.lineno} {node.name}"


def test_public_things_are_documented() -> None:
    """Every module, public class and public function or method has a docstring."""
    wrong = [text for path in modules("meshsvc") for text in undocumented(path)]
    assert not wrong, "without a docstring: " + "\n".join(wrong)


def test_tests_state_their_rule() -> None:
    """Every test function opens with a docstring, the rule it checks."""
    wrong = [
        f"{rel(path)}:{function.lineno} {function.name}"
        for path in modules("tests")
        for function in functions(path)
        if function.name.startswith("test_") and not ast.get_docstring(function)
    ]
    assert not wrong, "without a docstring: " + "\n".join(wrong)


def texts() -> Iterator[Path]:
    for path in ROOT.rglob("*"):
        inside = path.relative_to(ROOT).parts
        skipped = SKIPPED_DIRS & set(inside)
        generated = any(part.endswith(("_cache", ".egg-info")) for part in inside)
        if path.suffix in TEXT_SUFFIXES and not skipped and not generated and path.is_file():
            yield path


def test_no_leftovers() -> None:
    """No note to do something later, and no path of somebody's machine, in any file."""
    wrong = []
    for path in texts():
        for number, line in enumerate(path.read_text("utf-8", "replace").splitlines(), 1):
            if LEFTOVER.search(line):
                wrong.append(f"{rel(path)}:{number}: {line.strip()[:80]}")
    assert not wrong, "\n".join(wrong)


def test_no_empty_package_of_plugins() -> None:
    """``twisted/plugins`` is a shared namespace: an ``__init__.py`` there would hide others'."""
    wrong = [
        rel(p) for p in ROOT.rglob("twisted/**/__init__.py") if not SKIPPED_DIRS & set(p.parts)
    ]
    assert not wrong
