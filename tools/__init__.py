"""What makes parts of this project and is not installed with it."""
