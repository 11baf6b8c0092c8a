"""The only room that imports ComfyUI."""
