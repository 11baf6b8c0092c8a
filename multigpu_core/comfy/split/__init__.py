"""A split model inside ComfyUI: its patcher, its plan, and its sampling."""
