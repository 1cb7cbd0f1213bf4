"""HTTP in and out: routes, request bodies, errors as problem JSON, authorization, OpenAPI. No Redis commands."""
