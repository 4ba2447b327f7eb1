"""What is added to the loss; one module a penalty."""
