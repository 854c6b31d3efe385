"""The backends that come with meshsvc: static, file, env and dns."""
