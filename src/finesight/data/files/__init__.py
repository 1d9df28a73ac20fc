"""Files on this machine and at addresses, and rows of them by number."""
