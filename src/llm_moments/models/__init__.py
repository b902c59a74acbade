"""A model folder or file: what it says, how it is opened, its tokenizer and settings."""
