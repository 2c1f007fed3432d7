"""Drawing: line-API widgets that know nothing of shards or peers."""
