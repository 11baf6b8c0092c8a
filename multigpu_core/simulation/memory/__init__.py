"""What simulated devices hold, and who uses it."""
