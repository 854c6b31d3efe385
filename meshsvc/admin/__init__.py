"""Looking in: the HTTP side of a node, its metrics, the command line. Imports nothing."""
