"""Work over all rows, in several processes, whose findings are kept from run to run."""
