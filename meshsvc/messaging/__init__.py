"""The messaging service: registered verbs, asked and told across shards and nodes.

``items`` is what a batch holds, ``lanes`` where a batch collects, ``calls`` the caller's
side of an ask, ``dispatch`` the side that runs verbs, ``service`` drives them.
"""
