"""Replicated tables: a full copy in every shard, read like a dict, written everywhere.

``rows`` says what a row is and ``clock`` what its version is made of; ``replica`` is one
copy, ``digest`` its fingerprints; ``writes`` follows a write to its result; ``difference``
finds and repairs what two copies do not share, ``join`` says when two nodes do that for the
first time; ``leading`` holds the operations that one leader decides. ``service`` drives them.
"""
