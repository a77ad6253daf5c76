"""Being here puts `tests/` on the import path: modules in it can be shared by all tests."""
