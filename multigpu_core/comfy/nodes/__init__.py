"""Our node variants: their inputs, the wrapped loader, and one run of it."""
