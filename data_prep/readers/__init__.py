"""Readers: one file per format, each from a file to `RadarFrame`; found through `data_prep.readers.registry`."""
