"""A run directory as a person reads it: tables, plots and one HTML page. Reads files, returns text and bytes."""
