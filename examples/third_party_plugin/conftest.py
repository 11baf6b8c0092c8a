"""Brings the fixtures simulated_comfyui and simulated_machine."""

pytest_plugins = ["multigpu.testing"]
