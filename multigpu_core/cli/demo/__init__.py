"""`multigpu demo`: one model on one device and split, in a real ComfyUI."""
