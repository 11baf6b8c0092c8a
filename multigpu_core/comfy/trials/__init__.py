"""Runs of a model that `multigpu verify` and `multigpu doctor` have done inside a ComfyUI."""
