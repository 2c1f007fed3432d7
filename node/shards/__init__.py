"""Shard files: cutting a model, describing a shard, loading it. Importing this is cheap."""

from __future__ import annotations
