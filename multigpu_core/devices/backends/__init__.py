"""One module for each family of devices, as the registry sees them. Imported by devices only."""
