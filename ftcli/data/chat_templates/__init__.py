"""Chat templates: render conversations, find what is learned, and detect what a template drops."""
