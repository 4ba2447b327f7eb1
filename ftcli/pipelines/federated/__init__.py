"""Federated training: clients that keep their rows, and a server that joins what they send."""
