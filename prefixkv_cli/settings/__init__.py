"""Defaults that the user has chosen: environment variables, and a file in the home folder."""
