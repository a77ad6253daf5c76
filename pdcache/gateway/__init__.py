"""The front door of a cluster."""
