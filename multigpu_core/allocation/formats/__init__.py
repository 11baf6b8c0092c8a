"""The headers of model files: one file in `built_in` for each format that we bring."""
