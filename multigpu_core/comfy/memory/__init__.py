"""The models that our nodes loaded: tracked, retained and released."""
