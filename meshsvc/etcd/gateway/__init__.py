"""The JSON face of the API: the paths and conventions of etcd's gRPC gateway over HTTP/1.1."""
