"""What is done with a model and its guide: training, evaluation, generation, plots and the command line."""
