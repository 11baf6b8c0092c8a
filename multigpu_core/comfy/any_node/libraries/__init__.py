"""Functions of libraries that are replaced while a node runs on a chosen device."""
