"""The mathematics of EM in a mixture: conjugate priors, expected statistics and M-steps."""
