"""Long and large: many shards, many updates, many readers; what grows, and whether every answer is right."""
