"""Frozen values and state machines that the whole product speaks in. No I/O, nothing of any platform."""
