"""HTTP/2 for a server of small requests: a pure core of our own behind a narrow seam.

``connection.Connection`` takes bytes and gives events, takes responses and gives bytes; it
knows no gRPC. General HTTP/2 libraries spend 100 µs on a request, ten times what the store
behind it needs, so frames are read here; header blocks are decoded by the ``hpack`` library,
and tests let the ``h2`` library be the peer.
"""
