"""The running ComfyUI: its devices, its memory management, its prompt worker, and what we replace in it."""
