"""The load that the bench puts on real nodes, as an application like any other."""
