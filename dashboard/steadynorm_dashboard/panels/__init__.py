"""Parts of pages: each reads what it shows and draws it."""
