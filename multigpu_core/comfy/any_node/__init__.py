"""Nodes that load models of their own, run on the device that their user chooses."""
