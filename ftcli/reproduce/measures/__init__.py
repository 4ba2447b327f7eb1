"""Measurements that no run makes by itself; one module each, found by its name."""
