"""What every room uses: errors, files written whole, the machine, the budget of a run."""
