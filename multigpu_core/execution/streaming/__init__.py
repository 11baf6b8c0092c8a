"""Offloaded modules come to the compute device ahead of their turn."""
