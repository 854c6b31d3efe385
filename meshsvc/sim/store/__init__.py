"""Clients of the store of a simulated cluster, and a ledger of what they were told."""
