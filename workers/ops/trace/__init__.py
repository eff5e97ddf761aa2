"""One request followed from its record to its published answer."""
