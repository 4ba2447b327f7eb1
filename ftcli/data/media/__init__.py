"""Images and sounds, with labels or captions, from files, arrays or a hub."""
