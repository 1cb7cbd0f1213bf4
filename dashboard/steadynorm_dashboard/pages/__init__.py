"""One thin file per page: which panels it shows, and in what order."""
