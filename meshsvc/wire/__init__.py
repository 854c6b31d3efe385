"""Bytes to messages and back: strict CBOR, length-prefixed frames, one message registry."""
