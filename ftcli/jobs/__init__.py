"""Jobs that turn a checked configuration into a finished run: train, resume, stages, trials, several processes."""
