"""The passage store in a Lance dataset.
"""
