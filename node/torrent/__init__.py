"""Shard files as torrents: what lies on disk and its info hash."""
