"""Tests of the source itself: its layers, sizes, words and links."""
