"""Runs that are killed at random moments and go on: what is left must not differ by a bit."""
