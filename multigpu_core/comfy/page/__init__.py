"""What ComfyUI's page is told: HTTP routes, the panel's state, plans in advance, and help pages."""
