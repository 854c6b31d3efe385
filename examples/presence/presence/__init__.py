"""Who is on-line, where: an example application of meshsvc."""
