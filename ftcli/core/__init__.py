"""Modules that every folder imports: the run object, its directory, callbacks, hooks, random generators, files, errors."""
