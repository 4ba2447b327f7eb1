"""Penalties that are added to the loss; one module a penalty."""
