"""What a recipe may say, checked before anything heavy is loaded. Nothing here imports torch."""
