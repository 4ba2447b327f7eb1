"""Images and sounds as files or arrays, with the name of their class."""
