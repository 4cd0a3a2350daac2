"""What lies on disk: atomic writes, a detector's folder, tables of scores, the cache."""
