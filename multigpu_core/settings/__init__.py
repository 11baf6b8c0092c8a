"""plugins.toml: its layers, its values and their checks. Imported by plugins, comfy and cli."""
