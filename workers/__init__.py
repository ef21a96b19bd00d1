"""Celery workers and the job kernel that the API shares with them."""
