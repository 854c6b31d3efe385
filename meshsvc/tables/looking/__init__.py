"""Copies as operators look at them, without changing any: ``service`` asks every shard of
every node, ``compare`` tells from their answers which copies and which keys differ.
"""
