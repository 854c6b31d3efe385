"""meshsvc: the clustering layer for Python network services.

Membership, messaging, an epoch mesh and one process per core, as one twistd plugin.
Importing this package does no work; see ``docs/architecture.md`` for the floor plan.
"""

__version__ = "0.1.0"
