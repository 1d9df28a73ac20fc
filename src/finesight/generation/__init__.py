"""Answers of a model: samples in, predictions out."""
