"""The consistent store of a node: Raft groups over the mesh, and etcd's API in front."""
