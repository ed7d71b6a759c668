"""Training in several processes: the messages between them, and weights in shards."""
