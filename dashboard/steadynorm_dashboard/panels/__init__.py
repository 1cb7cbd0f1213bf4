"""Parts of pages: forms, tables, headers. Charts come from `charts`, words from `formatting`."""
