"""Converts training images to sharded, shuffled TFRecords."""
