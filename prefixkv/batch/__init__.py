"""Many questions about many pictures, from a file to a file. Imports nothing."""
