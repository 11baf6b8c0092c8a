"""What a pack keeps between calls: devices in its globals, models in its caches, and what its source says."""
