"""Policies that select which of the method's parameters are trained at a step; one module a policy."""
