"""Running a plan on Ray: local head, controller, process actors, supervised processes."""
