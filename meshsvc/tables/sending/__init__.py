"""The writes of one shard: ``service`` sends and takes them."""
