"""Pretrained models to start from, in the format of Hugging Face."""
