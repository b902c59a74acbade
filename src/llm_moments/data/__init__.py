"""Examples: readers of every format, labels, images and sounds, what is written and where it goes."""
