"""Measurements of finesight beside its peers; each module is run as `python -m benchmarks.NAME`."""
