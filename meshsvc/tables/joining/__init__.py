"""Joining tables with other nodes, done by the seat of a node: ``peers`` keeps what it knows
of them, ``service`` does the joins, ``upkeep.service`` what every shard does by itself.
"""
