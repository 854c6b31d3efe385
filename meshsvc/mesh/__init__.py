"""The epoch mesh: which nodes hold data links to each other, and under which epoch."""
