"""One connection between two nodes: handshake, admission, keepalive, and who redials it."""
