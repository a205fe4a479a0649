"""Random input against the program, bounded by time: `make fuzz`, no part of the tests."""
