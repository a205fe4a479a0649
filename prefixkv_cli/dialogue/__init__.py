"""The conversation in a terminal, a pipe or a stream: what is typed, shown and recorded."""
