"""The parts of ``tools/build_pictures.py``: sources, rendering, colours, and one module per picture set."""
