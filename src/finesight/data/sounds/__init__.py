"""Sounds: decoded under limits, written down by a speech model, and read as words from then on."""
