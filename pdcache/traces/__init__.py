"""Traces: other people's formats, seeded workloads, and what a cache could make of them."""
