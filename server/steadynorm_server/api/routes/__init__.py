"""One file a resource: who may ask, what is read, what is answered. Decisions are made by the services below."""
