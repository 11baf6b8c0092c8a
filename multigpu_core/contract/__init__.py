"""What plugins and MultiGPU hand to each other: data only. Imports nothing but the standard library."""
