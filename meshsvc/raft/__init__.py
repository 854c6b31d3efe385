"""Consensus: one log that all voters of a group agree on, whatever crashes or is cut off.

``raft.py`` is the core and documents the order of duties; ``service.py`` drives it under
Twisted; ``docs/raft.md`` is the manual.
"""
