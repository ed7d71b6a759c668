"""Pretrained encoders that guides read texts with."""
