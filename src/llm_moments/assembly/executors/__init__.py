"""Where a pipeline's inputs are answered: by worker processes here (`local`)."""
