"""What operators ask: how topics should be, how far lanes are, what the books say."""
