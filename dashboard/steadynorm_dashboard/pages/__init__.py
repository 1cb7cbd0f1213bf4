"""One thin file a page: which panels it shows, and in what order."""
