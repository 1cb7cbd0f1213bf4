"""The OpenAPI document: schemas, examples and the errors of each route."""
