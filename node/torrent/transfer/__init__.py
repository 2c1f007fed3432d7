"""Moving shard files between peers: serving them, and downloading from several sources at once."""
