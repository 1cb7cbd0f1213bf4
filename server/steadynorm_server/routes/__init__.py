"""The routes: who may ask, what is read from the request, what is answered. What happens is in the store."""
