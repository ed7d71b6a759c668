"""Pages of HTML about runs."""
