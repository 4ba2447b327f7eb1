"""One module a verb: parse, call, print. No logic lives here."""
