"""What runs: the send, billing and expiry workers, the ticker, and the command that starts them."""
