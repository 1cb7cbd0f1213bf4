"""The processes: uvicorn, workers, the embedded Redis, logging. The only room that starts anything."""
