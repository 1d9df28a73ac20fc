"""Models, their parts and ports: everything that knows an architecture."""
