"""The demo: one real fine-tuning job through the whole service, and what it saved."""
