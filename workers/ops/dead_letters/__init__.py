"""Dead letters: list them, follow their history, send them back."""
