"""Changes of a live cluster: what differs, the least that must be done, step by step."""
