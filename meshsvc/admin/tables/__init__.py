"""The admin side of replicated tables: ``routes`` for its paths, ``dump`` for the stream of a
whole table, ``values`` for keys and values as JSON.
"""
