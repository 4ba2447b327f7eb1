"""Sequences of training that are not one run of the loop: rounds over clients, stages."""
