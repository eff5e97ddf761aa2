"""Topics as operators see them: settings, what they promise, publishing, results."""
