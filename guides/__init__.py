"""What is learned: an amortized neural posterior for each model, under the model's file name."""
