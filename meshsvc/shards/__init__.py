"""Between the shards of one node: CPUs, placement, routing and the bus."""
