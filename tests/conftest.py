"""Being here puts `tests/` on the import path: modules in it can be shared by all tests."""

import signal

# A shell that starts the tests in the background lets them ignore SIGINT, and so all they start;
# the tests of Ctrl-C need what a terminal gives.
signal.signal(signal.SIGINT, signal.default_int_handler)
