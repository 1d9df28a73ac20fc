"""What is shown of the data before anything is learned: surveys, distributions, what comes twice, single samples."""
