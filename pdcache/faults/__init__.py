"""What can be wrong with a live cluster beside a dead process, how it is seen, and healed."""
