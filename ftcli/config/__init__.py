"""From a YAML file and a command line to one checked configuration, without importing torch."""
