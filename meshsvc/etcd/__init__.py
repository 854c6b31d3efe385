"""The etcd v3 API in front of the store: gRPC over HTTP/2 and JSON over HTTP/1.1, one port."""
