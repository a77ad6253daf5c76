"""What processes a storage backend needs, and how to know that they are healthy."""
