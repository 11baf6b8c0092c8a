"""Placing and streaming blocks."""
