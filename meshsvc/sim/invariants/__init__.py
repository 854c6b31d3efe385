"""What must hold in every run, whatever the scenario: one module of checks per section.

A section registers its checks with ``register``; every cluster builds all of them. To add
one, write a ``Check`` with the hooks it needs and decorate it; nothing else has to change.
"""

from meshsvc.sim.invariants.base import Check, all_checks, register

__all__ = ["Check", "all_checks", "register"]
