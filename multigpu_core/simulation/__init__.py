"""Simulated accelerators for PyTorch. Imported by the demo, tests and authors."""
