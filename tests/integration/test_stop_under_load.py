"""A node that is stopped while it works: calls end, nobody is cut off, exit code 0."""

import signal
import threading
import time

import pytest
from dev_cluster import wait_until


@pytest.mark.contract("SHD-9", "GSP-9", "VERB-2")
def test_a_stop_under_load_fails_no_call_for_good(cluster):
    """Calls that land on the stopping node are answered, or fail as retriable and succeed
    elsewhere at once; the node has left within a second and exits 0 within its budget.
    """
    cluster.wait_formed()
    n1, n2, n3 = cluster.nodes
    kinds, answered, stop = [], [0], threading.Event()

    def load(node, number):
        count = 0
        while not stop.is_set():
            count += 1
            reply = node.call(f"key:{number}:{count}", "sys.echo", count)
            if reply and "reply" in reply:
                answered[0] += 1
            elif reply:
                kinds.append(reply["error"]["kind"])

    workers = [threading.Thread(target=load, args=(node, i)) for i, node in enumerate((n1, n2) * 2)]
    for worker in workers:
        worker.start()
    try:
        time.sleep(0.5)
        n3.kill(signal.SIGTERM)
        wait_until(lambda: n1.statuses().get("n3") == "left", 2, cluster.describe)
        wait_until(lambda: cluster.formed([n1, n2]), 15, cluster.describe)
    finally:
        stop.set()
        for worker in workers:
            worker.join(30)
    assert answered[0] > 100
    assert set(kinds) <= {"Disconnected"}
    assert len(kinds) <= answered[0] / 20
    again = cluster.start_again(n3)
    cluster.wait_formed()
    again.terminate()
    assert again.wait(35) == 0
    cluster.start_again(n3)
    cluster.wait_formed()


@pytest.mark.contract("SHD-9")
def test_a_stop_during_the_start_is_a_clean_stop(cluster):
    """SIGTERM at any moment of a start: exit 0, or the signal's own end before it is handled."""
    cluster.wait_formed()
    victim = cluster.nodes[2]
    victim.kill(signal.SIGTERM)
    wait_until(lambda: victim.http("/livez")[0] == 0, 10, "its admin port is closed")
    wait_until(lambda: cluster.formed(cluster.nodes[:2]), 15, cluster.describe)
    for delay_s in (0.2, 0.35, 0.5, 0.65, 0.8):
        process = cluster.start_again(victim)
        time.sleep(delay_s)  # the moment is what differs
        process.terminate()
        assert process.wait(35) in (0, -signal.SIGTERM)
    cluster.start_again(victim)
    cluster.wait_formed()
