"""What a file or line from outside may hold: one pydantic model for each format, loaded only where one is read."""
