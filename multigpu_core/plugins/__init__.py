"""Discovery, configuration and isolation of plugins."""
