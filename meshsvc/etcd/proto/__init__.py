"""The messages of etcd's v3 API as protobuf: the ``.proto`` files here, and what is made of them.

``make proto`` writes the ``*_pb2`` modules. The package name is our own, as protobuf allows
one owner of a name in a process and etcd's clients bring theirs; on the wire only field
numbers count, and service paths are spelled by ``rpcs``.
"""
