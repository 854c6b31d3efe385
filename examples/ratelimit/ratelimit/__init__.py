"""A rate limiter that counts across a cluster: one token bucket for each key, in one place.

``buckets`` counts, ``service`` finds the shard that counts for a key, ``http`` is the door.
"""
