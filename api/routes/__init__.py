"""HTTP routes: thin, one file per resource."""
