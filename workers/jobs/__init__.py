"""The job kernel, shared by API and workers: pydantic and the standard library only."""
