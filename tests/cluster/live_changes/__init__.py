"""Changes of one live cluster under a multi-turn load; the tests build on one another."""
