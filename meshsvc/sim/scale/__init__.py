"""Gossip alone at the size of a large cluster: cores, virtual time and counted bytes."""
