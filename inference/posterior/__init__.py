"""Export of posterior draws to ArviZ."""
