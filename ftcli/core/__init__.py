"""What every folder stands on: the run object, its directory, callbacks, hooks, random generators, files, errors."""
