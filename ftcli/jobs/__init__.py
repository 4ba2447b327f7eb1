"""From a checked configuration to a finished run: train, resume, stages, trials, several processes."""
