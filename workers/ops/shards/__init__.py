"""Which server holds which partition numbers; preparing a server, and moving a number to another."""
