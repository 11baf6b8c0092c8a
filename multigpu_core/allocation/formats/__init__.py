"""The headers of model files, one module for each format. Imported by the inventory only."""
