"""What a trained student is worth."""
