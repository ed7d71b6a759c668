"""What is assumed: generative models, the mixtures and Transformer blocks they are made of, and their priors."""
