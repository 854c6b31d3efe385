"""Who is alive: endpoint states that spread by gossip, and echoes that prove them.

What is known of a node and whether it answers are two different things. States travel over
third parties; a node counts as alive only after an echo of this node's own, and as dead only
after this node's own probes failed.
"""
