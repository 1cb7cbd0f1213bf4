"""One file a resource: who may ask, what is read, what is returned. Decisions are made by the services below."""
