"""The shared vocabulary: what every other room may name without knowing another room."""
