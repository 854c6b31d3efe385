"""The consistent store: what Raft orders, kept with its history and watched.

``api`` is the vocabulary (etcd's, under Python's names) and ``KvBackend``, what a front such
as ``etcd/`` calls. ``machine`` is what a committed command does; below it are ``mvcc`` and
``index`` (keys and their history), ``txn``, ``lease``, ``quota``, ``hash`` and ``snapshot``.
``watch`` tells what changed. ``service`` ties them to a Raft group, ``client`` is what
applications use.
"""
