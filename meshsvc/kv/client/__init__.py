"""The store as applications use it: ``mesh.kv()`` gives a ``KvClient``."""
