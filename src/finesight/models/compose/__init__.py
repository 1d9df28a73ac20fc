"""Models composed of a vision encoder, a projector and a language model."""
