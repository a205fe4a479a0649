"""One file a command: read the options, call the engine, show the result."""
