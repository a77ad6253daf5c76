"""Tests that share one full_offload cluster, up for this package only."""
