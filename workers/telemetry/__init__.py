"""What a process reports of itself: health, metrics and traces."""
