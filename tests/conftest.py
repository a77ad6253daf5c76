"""Being here puts `tests/` on the import path: modules in it can be shared by all tests."""

import signal

from hypothesis import settings

# A shell that starts the tests in the background lets them ignore SIGINT, and so all they start;
# the tests of Ctrl-C need what a terminal gives.
signal.signal(signal.SIGINT, signal.default_int_handler)

# How long an example takes says how busy the machine is.
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")
