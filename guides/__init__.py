"""What is learnt: an amortised neural posterior for each model, under the model's file name."""
