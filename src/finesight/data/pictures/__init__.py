"""Picture files to pixels, the changes that training makes to them, and which of them look alike."""
