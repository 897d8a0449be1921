"""Holds what was recorded against what should have been: the checker is pure, `run` reads the database."""
