"""The machine: files, devices, seeds, logging."""
