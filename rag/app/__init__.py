"""The roof: the command line, presets, adapters. Nothing imports it.
"""
