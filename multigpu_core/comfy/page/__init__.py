"""The interface to ComfyUI's page: HTTP routes, the panel's state, plans in advance, and help pages."""
