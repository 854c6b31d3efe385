"""The processes of one node: its config, its supervisor, its shards. Imports nothing itself."""
