"""One folder a paper: its method or objective with what belongs to it, and its measurements.

Nothing outside imports from here, and no paper imports another: what a second one needs moves down to a
shared folder.
"""
