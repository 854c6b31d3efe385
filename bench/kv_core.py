"""The store's core, without log or network: rates, memory of a million keys, longest slices.

The yardstick is a plain dict with the same keys and values, in a process of its own in the same
round, as is ours: one that keeps no order, no history and no revisions. A put is a command as
the log has it, decoded and applied. Keys have 100 bytes, values 20. Slices are steps between
which a service goes on with other requests: the longest of each kind, with puts going on between
them, while history is given back, while a snapshot is taken, and while it is restored.
Affinity: none; nothing here uses more than one core.
"""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import time
from collections.abc import Iterator

from figures import figure, options, percentile, progress, show

KEYS = 1_000_000
QUICK_KEYS = 100_000
PAUSE_S = 0.05


def key(number: int) -> bytes:
    return b"key%097d" % number


def value(number: int) -> bytes:
    return b"v%019d" % number


def resident() -> int:
    with open("/proc/self/status", encoding="ascii") as file:
        line = next(line for line in file if line.startswith("VmRSS"))
    return int(line.split()[1]) * 1024


def plain(keys: int) -> dict[str, float]:
    before, began = resident(), time.process_time()
    store = {}
    for number in range(keys):
        store[key(number)] = value(number)
    put_s = (time.process_time() - began) / keys
    size = (resident() - before) / keys
    began = time.process_time()
    for number in range(keys):
        store[key(number)]
    return {"put_s": put_s, "get_s": (time.process_time() - began) / keys, "bytes": size}


def timed(steps: Iterator[object]) -> Iterator[float]:
    while True:
        began = time.perf_counter()
        try:
            next(steps)
        except StopIteration:
            return
        yield time.perf_counter() - began


def core(keys: int) -> dict[str, float]:
    from meshsvc.kv import api, commands
    from meshsvc.kv.machine import Machine

    machine, index = Machine(1, 2), 0

    def put(number: int) -> None:
        nonlocal index
        index += 1
        machine.apply(commands.encode(api.Put(key(number), value(number))), index, 1)

    def busy(steps: Iterator[object]) -> list[float]:
        """Each slice's time; between them, puts."""
        took = []
        for number, seconds in enumerate(timed(steps)):
            took.append(seconds)
            put(number % keys)
        return took

    before, began = resident(), time.process_time()
    for number in range(keys):
        put(number)
    found = {"put_s": (time.process_time() - began) / keys, "bytes": (resident() - before) / keys}
    began = time.process_time()
    for number in range(keys):
        machine.range(api.Range(key(number)))
    found["get_s"] = (time.process_time() - began) / keys
    progress("snapshot")
    chunks: list[bytes] = []
    found["snapshot_s"] = percentile(busy(map(chunks.append, machine.snapshot())), 0.999)
    restore = machine.restore()
    found["restore_s"] = percentile(list(timed(map(restore.feed, chunks))), 0.999)
    del chunks, restore
    progress("compaction")
    for number in range(0, keys, 2):
        put(number)
    machine.mvcc.compact(machine.mvcc.revision)
    steps = iter(lambda: machine.mvcc.prune(1_000), False)
    found["prune_s"] = percentile(busy(steps), 0.999)
    return found


def measure(what: str, keys: int) -> dict[str, float]:
    words = [sys.executable, __file__, "--only", what, "--keys", str(keys)]
    done = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def main() -> int:
    """Measure and print."""
    parser = options(__doc__.splitlines()[0])
    parser.add_argument("--only", choices=["plain", "core"], help="what one process measures")
    parser.add_argument("--keys", type=int, default=0)
    args = parser.parse_args()
    keys = args.keys or (QUICK_KEYS if args.quick else KEYS)
    if args.only:
        # As a shard does when it holds much: collections become rare, not longer.
        gc.set_threshold(50_000, 20, 100)
        print(json.dumps({"plain": plain, "core": core}[args.only](keys)))
        return 0
    ours, yardstick = [], []
    for number in range(args.rounds or (1 if args.quick else 3)):
        progress(f"round {number + 1}: {keys} keys")
        yardstick.append(measure("plain", keys))
        ours.append({} if args.yardstick else measure("core", keys))
    if args.yardstick:
        print("\n".join(map(str, yardstick)))
        return 0

    def column(rows: list[dict[str, float]], name: str) -> list[float]:
        return [row[name] for row in rows]

    a_dict = "a plain dict"
    figures = [
        figure(
            "a put", "us", [s * 1e6 for s in column(ours, "put_s")],
            [s * 1e6 for s in column(yardstick, "put_s")], ("<=", 30), a_dict,
        ),
        figure(
            "a get", "us", [s * 1e6 for s in column(ours, "get_s")],
            [s * 1e6 for s in column(yardstick, "get_s")], ("<=", 15), a_dict,
        ),
        figure(
            "memory of a key", "bytes", column(ours, "bytes"), column(yardstick, "bytes"),
            ("<=", 2.0), a_dict,
        ),
    ]  # fmt: skip
    bound = [PAUSE_S * 1e3] * len(ours)
    for name in ("snapshot", "restore", "prune"):
        took = [s * 1e3 for s in column(ours, f"{name}_s")]
        text = f"longest slice of a {name} (p99.9)"
        figures.append(figure(text, "ms", took, bound, ("<=", 1.0), "the bound of 50 ms"))
    notes = [f"{keys} keys; puts are decoded from the log's form and applied, gets are ranges"]
    return show("The store's core", figures, notes, args.json)


if __name__ == "__main__":
    raise SystemExit(main())
