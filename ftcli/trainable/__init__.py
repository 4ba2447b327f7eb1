"""Which of the parameters that a method trains move at a step; one module a policy."""
