"""The data that plugins and MultiGPU exchange. Imports nothing but the standard library."""
