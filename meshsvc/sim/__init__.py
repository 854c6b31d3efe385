"""Whole clusters in one process: virtual time, a simulated network and disks, from one seed.

Nodes run the code of production, down to Twisted's endpoints; what is simulated is below
them (``clock``, ``network``, ``disk``) and beside them (``processes``, the supervisor).
``simulate`` is for tests of applications; ``meshsvc sim`` runs scenarios and replays them.
"""

from meshsvc.sim.simulation import InvariantBroken, Simulation, simulate

__all__ = ["InvariantBroken", "Simulation", "simulate"]
