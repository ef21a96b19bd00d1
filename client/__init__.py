"""The httpx SDK and the smartfrz command line. Loads no torch."""
