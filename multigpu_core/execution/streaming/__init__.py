"""Prefetch offloaded modules to the compute device."""
