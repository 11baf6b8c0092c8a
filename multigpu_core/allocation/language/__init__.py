"""What a user asks for: the allocation string, the widgets, and the request they become. Needs no torch."""
