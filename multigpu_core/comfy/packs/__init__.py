"""The node packs that integrations are written for."""
