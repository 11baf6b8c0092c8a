"""What devices there are."""
