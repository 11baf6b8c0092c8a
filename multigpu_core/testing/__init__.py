"""Tools for testing on simulated accelerators and inside a real ComfyUI."""
