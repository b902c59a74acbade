"""Examples made ready for judging, what plans cost, and two of them side by side."""
