"""What a node keeps on disk: who it is, which life this is, which epoch was minted last.

Everything here takes the file system as an argument, so that a simulated bad disk can stand
in for the real one, and nothing here is to be called on a reactor thread once the node runs.
"""
