"""What is measured, not tested: it depends on the machine. `make bench-cpu` runs it; nothing fails because of it."""
