"""The log of questions and answers: an SQLite file in the home folder that nobody else may read."""
